"""Configurations as plain data: dotted paths and `path=value` settings."""

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

SHOWN = 120  # characters of a setting in a message


class _Twice(ValueError):
    """A key stands twice in one JSON object, of which the last would count."""


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Twice(f"the key {twice!r} is given twice; leave one out.")
    return found


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys; lists of mappings are numbered, lists of scalars become JSON."""
    out: dict[str, Any] = {}
    for key, value in data.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            out |= flatten(value, f"{path}.")
        elif (
            isinstance(value, list | tuple) and value and all(isinstance(v, Mapping) for v in value)
        ):
            for index, item in enumerate(value):
                out |= flatten(item, f"{path}.{index}.")
        else:
            out[path] = json.dumps(value) if isinstance(value, list | tuple) else value
    return out


def override(data: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Apply `path=value` settings to a configuration's data. Values are JSON, else taken as text.

    Raises ValueError when a path is not a setting of `data`, naming the nearest that is.
    """
    out: dict[str, Any] = json.loads(json.dumps(data))
    for setting in settings:
        path, equals, text = setting.partition("=")
        shown = setting if len(setting) <= SHOWN else f"{setting[:SHOWN]}..."
        if not equals:
            raise ValueError(
                f"--set {shown}: write it as path=value, for example budget.images=40000."
            )
        try:
            value = json.loads(text, object_pairs_hook=_refuse_twice)
        except _Twice as error:
            raise ValueError(f"--set {shown}: {error}") from None
        except RecursionError:
            raise ValueError(
                f"--set {shown}: the value is nested too deeply for any setting; give plain settings."
            ) from None
        except json.JSONDecodeError as error:
            if text.lstrip()[:1] in ("{", "["):
                raise ValueError(
                    f"--set {shown}: the value is not JSON ({error.msg} at character "
                    f'{error.pos + 1}); write it like \'{path}={{"kind": "uniform"}}\' or '
                    f"'{path}=[1, 2]', in single quotes."
                ) from None
            value = text
        except ValueError:  # of an integer with thousands of digits
            raise ValueError(
                f"--set {shown}: the number has too many digits; give a smaller one."
            ) from None
        *parents, leaf = path.strip().split(".")
        place: Any = out
        for index, part in enumerate([*parents, leaf]):
            if not isinstance(place, dict) or part not in place:
                raise ValueError(
                    f"--set {shown}: `{path[:SHOWN]}` is not a setting; {_nearest(path[:SHOWN], out)}"
                )
            if index < len(parents):
                place = place[part]
        place[leaf] = value
    return out


def _nearest(path: str, data: Mapping[str, Any]) -> str:
    known = list(flatten(data))
    inner = {
        ".".join(key.split(".")[:depth]) for key in known for depth in range(1, key.count(".") + 1)
    }
    close = difflib.get_close_matches(path, [*known, *sorted(inner)], n=3, cutoff=0.5)
    return (
        f"did you mean {' or '.join(f'`{name}`' for name in close)}?"
        if close
        else f"known: {', '.join(data)}."
    )
