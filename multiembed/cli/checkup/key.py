"""Whether there is a key and whether it can be one; neither it nor a part of it is ever told."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from multiembed.cli.checkup.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from multiembed.cli.checkup.findings import Patient

_SHORT, _LONG = 20, 200
_NEAR = 0.85
_QUOTES = "\"'`“”‘’"
_PLACEHOLDER = re.compile(
    r"your[-_ ]|x{4,}|\*{3,}|\.{3,}|…|^<.*>$|^\$|^%\w+%$|change[-_ ]?me|placeholder|^(insert|paste|replace)[-_ ]"
    r"|^(my|your|the|sk)?[-_ ]?(api)?[-_ ]?(key|token|secret)([-_ ]here)?$|^(none|null|undefined|todo|test)$",
    re.IGNORECASE,
)


def find(patient: Patient, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """The variable that holds the key, and the key as it would be sent; None where there is none."""
    for variable in patient.key_variables:
        value = environ.get(variable, "").strip()
        if value:
            return variable, value
    return None


def missing(patient: Patient, environ: Mapping[str, str], others: Collection[str]) -> Finding:
    """What to say when there is no key.

    Args:
        patient: whose key.
        environ: where it would be.
        others: variables of all providers, which are no misspelling of this one's.
    """
    names = " or ".join(patient.key_variables)
    near = _misspelt(patient, environ, others)
    advice = f"Get one at {patient.key_page} and put it into {patient.key_variables[0]}."
    says = f"none: {names} is not set"
    if near:
        says += f", but {near} is"
        advice = f"{near} is not read: call it {patient.key_variables[0]}."
    elif any(name in environ for name in patient.key_variables):
        advice = f"The variable is there and empty. {advice}"
    else:
        advice = f"{advice} A .env file is not read by itself."
    return Finding(name="key", state="fail", says=says, advice=advice)


def judge(patient: Patient, variable: str, raw: str, environ: Mapping[str, str]) -> Finding:
    """What can be seen of a key without sending it."""
    key = raw.strip()
    facts = {"variable": variable, "length": _length(key)}
    fault = _fault(key, variable)
    if fault is not None:
        says, advice = fault
        return Finding(name="key", state="fail", says=f"in {variable}, but it {says}", advice=advice, facts=facts)
    says = f"in {variable}, {_length(key)}"
    if raw != key:
        says += ", with blanks around it, which are left out"
    rest = patient.key_variables[patient.key_variables.index(variable) + 1 :]
    hidden = [name for name in rest if environ.get(name, "").strip() not in ("", key)]
    if not hidden:
        return Finding(name="key", state="ok", says=says, facts=facts)
    advice = f"{hidden[0]} holds another key, which is not used. If that is the right one, unset {variable}."
    return Finding(name="key", state="warn", says=says, advice=advice, facts=facts)


def _fault(key: str, variable: str) -> tuple[str, str] | None:
    """What is wrong with the look of a key, and what to do."""
    again = f"Copy it again into {variable}, "
    if _PLACEHOLDER.search(key) or key.upper() == variable:
        return "is placeholder text", f"Put your own key into {variable}."
    if key.startswith((f"{variable}=", "export ")):
        return "begins with a variable's name", f"{again}the key alone, without the name and '='."
    if key.lower().startswith("bearer "):
        return "begins with 'Bearer'", f"{again}the key alone."
    if key[0] in _QUOTES or key[-1] in _QUOTES:
        return "is wrapped in quotation marks", f"{again}without them: .env readers and `docker --env-file` keep them."
    if any(character.isspace() for character in key):
        return "has blanks or line breaks inside", f"{again}on one line."
    if not all("!" <= character <= "~" for character in key):
        return "holds characters that no key has", f"{again}without full-width or invisible characters."
    return None


def _length(key: str) -> str:
    if len(key) < _SHORT:
        return f"short (under {_SHORT} characters)"
    return "of usual length" if len(key) <= _LONG else f"very long (over {_LONG} characters)"


def is_short(key: str) -> bool:
    """Whether a part of it may have been lost."""
    return len(key) < _SHORT


def _misspelt(patient: Patient, environ: Mapping[str, str], others: Collection[str]) -> str | None:
    """A variable that is set and is called nearly as the right one."""
    names = [name for name, value in environ.items() if value.strip() and name not in others]
    names = [name for name in names if name.upper().endswith(("KEY", "TOKEN"))]
    by_upper = {name.upper(): name for name in names}
    for variable in patient.key_variables:
        near = difflib.get_close_matches(variable, by_upper, n=1, cutoff=_NEAR)
        if near:
            return by_upper[near[0]]
    return None
