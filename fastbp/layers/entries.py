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
    given = {}
    for name, value in entry.items():
        if isinstance(value, dict):
            value = built(value)
        elif isinstance(value, list):
            value = [built(each) if isinstance(each, dict) else each for each in value]
        given[name] = value
    del given["type"]
    several = [p.name for p in inspect.signature(kind).parameters.values() if p.kind is p.VAR_POSITIONAL]
    inside = [each for name in several for each in given.pop(name, [])]
    return kind(*inside, **given)
