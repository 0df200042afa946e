"""Kaggle: a dataset or the files of a competition, through its HTTP API.

The official client is not used: it writes to a folder of its own choice, keeps one identity for a
whole process in the home folder, prints, and cannot go on where a download broke.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import httpx

from streams.ingest.credentials import Credential, Credentials, require_no_secrets
from streams.ingest.errors import IngestError
from streams.ingest.http import HttpSource
from streams.ingest.sources import Asked, Entry
from streams.ingest.web import Web, page_path

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,100}")
_HINTS = {
    401: ("unauthorized", "Kaggle refuses the key: make a new one on the account page"),
    403: (
        "forbidden",
        "Kaggle refuses: accept the rules of the competition (or the terms of the dataset) on its "
        "page, as the user of the key",
    ),
    404: ("not-found", "Kaggle knows no such dataset, version or competition, or it is private"),
}


class KaggleProvider:
    """``https://www.kaggle.com/datasets/OWNER/NAME[/versions/N]`` and ``.../competitions/NAME``.

    Parameters
    ----------
    web : Web
        Makes the requests.
    credentials : Credentials
        Finds keys: a ``kaggle.json`` as the account page gives it.
    api_url : str
        Base of the API.
    site : str
        Host of the pages that people copy URLs from.
    """

    def __init__(
        self,
        web: Web,
        credentials: Credentials,
        *,
        api_url: str = "https://www.kaggle.com/api/v1",
        site: str = "kaggle.com",
    ) -> None:
        self._web = web
        self._credentials = credentials
        self._api = api_url.rstrip("/")
        self._site = site.lower()

    def serves(self, url: str) -> bool:
        """Whether it is a page of a dataset or competition."""
        path = page_path(url, self._site) or []
        return bool(path) and path[0] in ("datasets", "competitions", "c")

    def entries(self, asked: Asked) -> Iterator[Entry]:
        """Give the archive of all files."""
        require_no_secrets(asked.url)
        kind, *path = [part for part in urlsplit(asked.url).path.split("/") if part]
        wanted = 2 if kind == "datasets" else 1
        names, rest = path[:wanted], path[wanted:]
        if len(names) < wanted or not all(map(_SLUG.fullmatch, names)):
            raise IngestError(
                "bad-url",
                "give https://www.kaggle.com/datasets/OWNER/NAME or "
                "https://www.kaggle.com/competitions/NAME",
            )
        if kind == "datasets":
            url = f"{self._api}/datasets/download/{names[0]}/{names[1]}"
            if len(rest) == 2 and rest[0] == "versions" and rest[1].isdecimal():
                url += f"?datasetVersionNumber={int(rest[1])}"
        else:
            url = f"{self._api}/competitions/data/download-all/{names[0]}"
        credential = self._bound(self._credentials.find(asked.credentials_ref))
        source = HttpSource(self._web, url, credential=credential, what="Kaggle", refusals=_HINTS)
        source.name = f"{names[-1]}.zip"
        yield Entry(source, origin="repository")

    def _bound(self, credential: Credential | None) -> Credential | None:
        if credential is None or credential.hosts:
            return credential
        host = frozenset({httpx.URL(self._api).host.lower()})
        if credential.kind == "kaggle":
            values = {
                "username": credential.values["username"],
                "password": credential.values["key"],
            }
            return Credential("basic", host, values)
        return replace(credential, kind="bearer", hosts=host)
