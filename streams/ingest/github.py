"""GitHub: a repository at a branch, tag or commit, a folder of it, or an asset of a release."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import httpx

from streams.ingest.credentials import Credential, Credentials, require_no_secrets
from streams.ingest.errors import IngestError, SourceAwayError
from streams.ingest.http import HttpSource
from streams.ingest.sources import Asked, Entry
from streams.ingest.web import Web, page_path, retry_after_seconds

_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}")
_REPOSITORY = re.compile(r"[A-Za-z0-9._-]{1,100}")
_SHA = re.compile(r"[0-9a-f]{40}")
_MAX_REF_PARTS = 6
_HEADERS = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}


class GitHubProvider:
    """``https://github.com/OWNER/REPOSITORY[/tree/REF[/FOLDER]]``, ``.../releases/download/...``.

    Parameters
    ----------
    web : Web
        Makes the requests.
    credentials : Credentials
        Finds tokens.
    api_url : str
        Base of the REST API; another one for GitHub Enterprise.
    site : str
        Host of the pages that people copy URLs from.
    """

    def __init__(
        self,
        web: Web,
        credentials: Credentials,
        *,
        api_url: str = "https://api.github.com",
        site: str = "github.com",
    ) -> None:
        self._web = web
        self._credentials = credentials
        self._api = api_url.rstrip("/")
        self._site = site.lower()

    def serves(self, url: str) -> bool:
        """Whether it is a page of a repository or an asset of a release, not any other file."""
        path = page_path(url, self._site) or []
        return len(path) == 2 or (len(path) > 3 and path[2] in ("tree", "releases", "commit"))

    def entries(self, asked: Asked) -> Iterator[Entry]:
        """Find the commit or asset that is meant."""
        require_no_secrets(asked.url)
        credential = self._bound(self._credentials.find(asked.credentials_ref))
        owner, name, *rest = (unquote(p) for p in urlsplit(asked.url).path.split("/") if p)
        name = name.removesuffix(".git")
        if not _OWNER.fullmatch(owner) or not _REPOSITORY.fullmatch(name) or name in (".", ".."):
            raise IngestError("bad-url", "a repository is https://github.com/OWNER/REPOSITORY")
        base = f"{self._api}/repos/{owner}/{name}"
        if rest[:1] == ["releases"]:
            yield self._asset(base, rest, credential)
            return
        commit, folder = self._commit(base, rest, credential)
        source = HttpSource(
            self._web,
            f"{base}/zipball/{commit}",
            headers=_HEADERS,
            credential=credential,
            what="GitHub",
        )
        # The archive's one top folder is named after the commit: paths would change with each.
        yield Entry(
            source, origin="repository", strip_parts=1, subfolder="/".join(folder), unpack=True
        )

    def _bound(self, credential: Credential | None) -> Credential | None:
        if credential is None or credential.hosts:
            return credential
        if credential.kind != "token":
            raise IngestError("bad-credentials", "a secret for GitHub is a token")
        host = httpx.URL(self._api).host.lower()
        return replace(credential, kind="bearer", hosts=frozenset({host}))

    def _commit(
        self, base: str, rest: list[str], credential: Credential | None
    ) -> tuple[str, list[str]]:
        """Find the commit, and the folder behind the name of the ref.

        A branch may hold slashes, and the URL does not tell where its name ends: the shortest
        name that is one wins, as no branch can be named like a folder of another one.
        """
        if not rest:
            value = self._ask(base, credential)
            rest = ["tree", str(value.get("default_branch", "HEAD"))]
        _, *path = rest
        for count in range(1, min(len(path), _MAX_REF_PARTS) + 1):
            ref = "/".join(path[:count])
            url = f"{base}/commits/{quote(ref, safe='')}"
            last = count == min(len(path), _MAX_REF_PARTS)
            value = self._ask(url, credential, missing=not last)
            if value and _SHA.fullmatch(str(value.get("sha", ""))):
                return value["sha"], path[count:]
        raise IngestError("not-found", "GitHub knows no such branch, tag or commit")

    def _asset(self, base: str, rest: list[str], credential: Credential | None) -> Entry:
        if len(rest) != 4 or rest[1] != "download":
            raise IngestError(
                "bad-url", "a release asset is https://github.com/O/R/releases/download/TAG/FILE"
            )
        value = self._ask(f"{base}/releases/tags/{quote(rest[2], safe='')}", credential)
        assets = value.get("assets")
        for asset in assets if isinstance(assets, list) else []:
            if isinstance(asset, dict) and asset.get("name") == rest[3]:
                source = HttpSource(
                    self._web,
                    f"{base}/releases/assets/{int(asset['id'])}",
                    headers=_HEADERS | {"Accept": "application/octet-stream"},
                    credential=credential,
                    what="GitHub",
                )
                source.name = rest[3]
                return Entry(source, origin="repository")
        raise IngestError("not-found", "the release has no asset of this name")

    def _ask(
        self, url: str, credential: Credential | None, *, missing: bool = False
    ) -> dict[str, Any]:
        status, headers, value = self._web.get_json(url, headers=_HEADERS, credential=credential)
        if status == 200 and isinstance(value, dict):
            return value
        if status in (404, 422) and missing:
            return {}
        raise refusal(status, headers, has_token=credential is not None)


def refusal(status: int, headers: httpx.Headers, *, has_token: bool) -> Exception:
    """Say what an answer of GitHub's API other than success means."""
    limited = headers.get("x-ratelimit-remaining") == "0" or "retry-after" in headers
    if status == 429 or (status == 403 and limited):
        return SourceAwayError(
            "GitHub's rate limit is used up"
            + ("" if has_token else "; a token in credentials_ref raises it"),
            retry_after_seconds=retry_after_seconds(headers),
        )
    if status >= 500 or status == 408:
        return SourceAwayError(f"GitHub answers {status}")
    reason, detail = {
        401: ("unauthorized", "GitHub refuses the token: it is wrong or expired"),
        403: ("forbidden", "GitHub refuses: the token lacks the right to read contents"),
        404: (
            "not-found",
            "GitHub knows no such repository, ref or asset"
            + (", or the token may not see it" if has_token else "; a private one needs a token"),
        ),
        422: ("not-found", "GitHub knows no such commit"),
        451: ("forbidden", "GitHub may not give this repository out for legal reasons"),
    }.get(status, ("bad-response", f"GitHub answers {status}"))
    return IngestError(reason, detail)
