"""An instance on its way in: where it comes from, and what is durable once it is stored."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.events import Source
from schemas.facts import Association


@dataclass(frozen=True)
class Origin:
    """Over which way an instance comes, and whose it is.

    Parameters
    ----------
    tenant, dataset_id : str
        Whose data it is, and the dataset that it joins.
    association : Association
        The association, or the DICOMweb request, over which it comes.
    source : str
        ``dicom`` for C-STORE, ``dicomweb`` for STOW-RS.
    """

    tenant: str
    dataset_id: str
    association: Association
    source: Source = "dicom"
