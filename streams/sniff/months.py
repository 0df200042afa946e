"""October is no optical coherence tomography: dates are taken out of text before it is read."""

from __future__ import annotations

import re

# A month's name beside a day or a year. A year that follows without a space (OCT2017) may be a
# data set's name, and stays.
_YEAR = r"(?:19|20)[0-9]{2}"
_GAP = r"[\s._/,-]*"
_OCTOBER = re.compile(
    rf"(?<![0-9])(?:[0-3]?[0-9]|{_YEAR}){_GAP}oct(?![a-z])"
    rf"|(?<![a-z])oct[\s._/,-]+(?:[0-3]?[0-9][\s._/,-]+)?{_YEAR}(?![0-9])",
    re.IGNORECASE,
)


def without_months(text: str) -> str:
    """Return a text without the month that is spelled like a modality.

    Parameters
    ----------
    text : str
        Of a header, a path or a picture.
    """
    return _OCTOBER.sub(" ", text)
