"""Facts and problems as a reader finds them, and the header made of them."""

from __future__ import annotations

from pydantic import ValidationError

from schemas.facts import HeaderFacts, Problem

MAX_PROBLEMS = 32
"""As many as a files-sniffed event carries."""


class Report:
    """Collects facts by field name and problems by code; each problem is kept once."""

    __slots__ = ("_problems", "facts")

    def __init__(self) -> None:
        self.facts: dict[str, object] = {}
        self._problems: dict[tuple[str, str], None] = {}

    def problem(self, code: str, detail: str = "") -> None:
        """Note a problem; ``detail`` must never hold content of the file."""
        self._problems[(code, detail)] = None

    def problems(self) -> tuple[Problem, ...]:
        """Return the problems in the order in which they were found, bounded."""
        if not self._problems:
            return ()
        found = list(self._problems)
        if len(found) > MAX_PROBLEMS:
            rest = len(found) - MAX_PROBLEMS + 1
            found[MAX_PROBLEMS - 1 :] = [("more-problems", f"{rest} more")]
        return tuple(Problem(code=code, detail=detail[:512]) for code, detail in found)

    def header(self) -> HeaderFacts:
        """Return the facts as a value; a fact outside the contract becomes a problem."""
        try:
            return HeaderFacts(**self.facts)  # type: ignore[arg-type]
        except ValidationError as error:
            faults = error.errors(include_input=False, include_url=False, include_context=False)
            for name in {str(fault["loc"][0]) for fault in faults if fault["loc"]}:
                self.facts.pop(name, None)
                self.problem("invalid-value", name)
        return HeaderFacts(**self.facts)  # type: ignore[arg-type]
