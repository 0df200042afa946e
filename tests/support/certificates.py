"""Certificates for tests, made with the openssl command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in a folder.

    Parameters
    ----------
    folder : Path
        Where it keeps its files.
    name : str
        Its common name.
    """

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate = folder / f"{name}.crt"
        self._key = folder / f"{name}.key"
        _openssl(
            "req", "-x509", *_NEW_KEY, "-keyout", self._key, "-out", self.certificate,
            "-subj", f"/CN={name}", "-days", "30",
        )  # fmt: skip

    def issue(
        self,
        name: str,
        *,
        hosts: str = "IP:127.0.0.1,DNS:localhost",
        valid: tuple[datetime, datetime] | None = None,
        rsa: bool = False,
    ) -> Identity:
        """Make a certificate that the authority signs.

        Parameters
        ----------
        name : str
            Common name, and name of the files.
        hosts : str
            Its subjectAltName, as openssl writes it.
        valid : tuple of datetime
            From when until when; 30 days from now without it.
        rsa : bool
            Whether its key is one of RSA instead of elliptic curves.
        """
        made = Identity(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        request = self._folder / f"{name}.csr"
        _openssl(
            "req", "-new", *(_NEW_RSA_KEY if rsa else _NEW_KEY), "-keyout", made.key,
            "-out", request, "-subj", f"/CN={name}", "-addext", f"subjectAltName={hosts}",
        )  # fmt: skip
        if valid is None:
            _openssl(
                "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key,
                "-CAcreateserial", "-copy_extensions", "copy", "-days", "30",
                "-out", made.certificate,
            )  # fmt: skip
            return made
        # `openssl x509` of 3.0 cannot set dates; `openssl ca` can.
        (self._folder / "index.txt").write_text("")
        (self._folder / "serial").write_text("1000\n")
        config = self._folder / "ca.cnf"
        config.write_text(
            "[ca]\ndefault_ca=own\n[own]\n"
            f"database={self._folder}/index.txt\nserial={self._folder}/serial\n"
            f"new_certs_dir={self._folder}\ndefault_md=sha256\npolicy=any\ncopy_extensions=copy\n"
            "[any]\ncommonName=supplied\n"
        )
        begin, end = (f"{date:%Y%m%d%H%M%SZ}" for date in valid)
        _openssl(
            "ca", "-batch", "-config", config, "-in", request, "-cert", self.certificate,
            "-keyfile", self._key, "-startdate", begin, "-enddate", end, "-out", made.certificate,
            "-notext",
        )  # fmt: skip
        return made


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_NEW_RSA_KEY = ("-newkey", "rsa:2048", "-nodes")


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
