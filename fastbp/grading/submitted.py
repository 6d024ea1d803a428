"""An item's functions as a submission has them: called in its sandbox, and as a problem for the gradient checker."""

import numpy as np

from ..gradcheck.problems import Problem
from .answers import Answer, copied, kind, number_array
from .assignment import Arguments, Convention, Item, parse
from .sandbox import Sandbox, SubmissionError


class Submitted:
    """The functions of one item in one submission."""

    def __init__(self, box: Sandbox, item: Item):
        self.box, self.item = box, item
        self.forward_name = parse(item.forward)[0]
        self.backward_name = parse(item.backward)[0] if item.backward else ""

    def forward(self, arguments: Arguments, strided: bool = False) -> Answer:
        """The submission's forward pass. An answer of the wrong kind is a SubmissionError too."""
        answer = Answer(arguments)
        loss = self.item.backward is None
        given = f"the {'loss' if loss else 'output'} of {self.forward_name}"
        try:
            returned = self.box.call(self.forward_name, *arguments.values(), keep=() if loss else (1,), strided=strided)
            answer.after = dict(zip(arguments, self.box.arguments_after, strict=True))
            what = "(loss, dx)" if loss else "(out, cache)"
            if not isinstance(returned, (tuple, list)) or len(returned) != 2:
                raise SubmissionError("value", f"{self.forward_name} must return {what}, it returned {kind(returned)}")
            answer.out, rest = number_array(returned[0], given), returned[1]
            if loss:
                answer.out = answer.out.reshape(()) if answer.out.size == 1 else answer.out
                answer.gradients = rest if isinstance(rest, (tuple, list)) else (rest,)
            else:
                answer.cache = rest
        except SubmissionError as error:
            answer.error = error
        return answer

    def backward(self, dout: np.ndarray, answer: Answer):
        """What the submission's backward pass gives for a dout and the cache of an answer."""
        return self.box.call(self.backward_name, dout, answer.cache)

    def named(self, returned) -> list[np.ndarray]:
        """The gradients as arrays, as many as there should be; SubmissionError otherwise."""
        names = self.item.gradients
        gradients = returned if isinstance(returned, (tuple, list)) else (returned,)
        if len(gradients) != len(names):
            wanted = ", ".join(f"d{n}" for n in names)
            raise SubmissionError("value", f"{len(gradients)} gradients were returned for {len(names)}: {wanted}")
        return [number_array(g, f"the gradient of {n}") for n, g in zip(names, gradients, strict=True)]


class SubmittedProblem(Problem):
    """A submission's functions at some arguments, for the gradient checker."""

    def __init__(self, functions: Submitted, arguments: Arguments):
        super().__init__()
        self.functions, self.arguments = functions, copied(arguments)
        self.scalar = functions.item.backward is None
        self.subject = functions.backward_name or functions.forward_name
        for name in functions.item.gradients:
            self.arguments[name] = np.array(self.arguments[name], np.float64)
            self.tensors[name] = self.arguments[name]
        self.others = {name: value for name, value in self.arguments.items() if name not in self.tensors}
        self.seen = {"the inputs": list(self.tensors.values())}
        self.gradients: dict[str, np.ndarray] = {}
        self.called: dict[str, int] = {}
        self.in_forward: set[str] = {functions.forward_name}
        self.answer: Answer | None = None

    def forward(self):
        answer = self.functions.forward(self.arguments)
        if answer.error is not None:
            raise answer.error
        self.answer = answer
        self.in_forward |= set(self.functions.box.calls_inside)
        after = [answer.after[name] for name in self.tensors]
        self.seen = {"the inputs": [a if isinstance(a, np.ndarray) else np.empty(0) for a in after]}
        if self.scalar:
            self.called = dict(self.functions.box.calls_inside)
        return np.array(answer.out, np.float64)

    def backward(self, dout):
        if self.scalar:
            gradients = self.answer.gradients
        else:
            gradients = self.functions.backward(dout, self.answer)
            self.called = dict(self.functions.box.calls_inside)
            left = self.functions.box.arguments_after[0]
            if left is not dout:
                dout[...] = left if isinstance(left, np.ndarray) and left.shape == dout.shape else np.nan
        named = dict(zip(self.tensors, self.functions.named(gradients), strict=True))
        if not self.gradients:
            self.gradients, self.dout = named, np.array(dout)
        return named

    def held(self):
        return self.seen

    def true_gradients(self, convention: Convention) -> dict[str, np.ndarray]:
        """The reference's for the first dout that backward was given."""
        try:
            expected, reference = convention.reference(self.answer.out, **copied(self.arguments))
            gradients = reference() if self.scalar else reference(self.dout)
        except Exception:  # the reference is at odds with the submission's shapes
            return {}
        return dict(zip(self.tensors, map(np.asarray, gradients), strict=True))
