"""Layers from what a saved network says of them: their `entry`."""

import inspect

from .base import Layer


def layer_type(name: str) -> type[Layer]:
    """The class of layers that files call by this name."""
    if name in Layer.types:
        return Layer.types[name]
    module, _, plain = name.rpartition(":")
    alike = [kind for key, kind in Layer.types.items() if ":" in key and key.rpartition(":")[2] == plain]
    in_script = [
        kind for kind in alike if "__main__" in (module, kind.__module__) or not module
    ]  # older files name no module
    if len(in_script) == 1:
        return in_script[0]
    where = f", {module}" if module else ""
    raise ValueError(f"layer {plain} is unknown; import the module that defines it first{where}")


def built(entry: dict) -> Layer:
    """The layer of a file's entry, with those inside it."""
    kind = layer_type(entry["type"])
    given = {name: _read(value) for name, value in entry.items() if name != "type"}
    parameters, positional = list(inspect.signature(kind).parameters.values()), []
    for p in parameters:
        if p.kind is p.VAR_KEYWORD:
            given |= given.pop(p.name, {})
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        for p in parameters:
            if p.name in given and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL):
                value = given.pop(p.name)
                positional += value if p.kind is p.VAR_POSITIONAL else [value]
    return kind(*positional, **given)


def _read(value):
    """A constructor's argument from a file: entries as the layers that they stand for."""
    if isinstance(value, list):
        return [_read(each) for each in value]
    if not isinstance(value, dict):
        return value
    return built(value) if isinstance(value.get("type"), str) else {name: _read(each) for name, each in value.items()}
