"""What codes of a peer mean, and what to change, for ``dicom_gateway.peers.check``."""

from __future__ import annotations

# First bytes of what else answers on a port.
OTHER_PROTOCOLS = (
    (b"HTTP/", "a web server (HTTP)"),
    (b"<", "a web server (HTML)"),
    (b"SSH-", "an SSH server"),
    (b"220", "a mail or FTP server"),
    (b"* OK", "a mail server (IMAP)"),
    (b"+OK", "a mail server (POP3)"),
    (b"-ERR", "a Redis server"),
    (b"\x0b", "an HL7 interface (MLLP)"),
    (b"RFB ", "a VNC server"),
)

# (source, reason) of an A-ASSOCIATE-RJ (PS3.8 9.3.4) -> what it means, what to change where.
REJECTIONS: dict[tuple[int, int], tuple[str, str]] = {
    (1, 1): (
        "no reason given",
        "Look into the peer's log; most often it does not know the calling AE title.",
    ),
    (1, 2): (
        "application context name not supported",
        "The peer is very old or no ordinary DICOM node: check that port {port} is its DICOM port.",
    ),
    (1, 3): (
        "calling AE title not recognized",
        "On the peer, add {calling} (with this machine's address) to the nodes that may call it, "
        "or call with a title that it knows: --calling.",
    ),
    (1, 7): (
        "called AE title not recognized",
        "On this side, correct the called AE title {called} (case counts): --called. Or give the "
        "peer that title.",
    ),
    (2, 1): (
        "no reason given, by its association control",
        "Look into the peer's log.",
    ),
    (2, 2): (
        "protocol version not supported",
        "The peer's upper layer is no DICOM one: check that port {port} is its DICOM port.",
    ),
    (3, 1): (
        "temporary congestion",
        "The peer is busy: try again later; if it lasts, look at its load.",
    ),
    (3, 2): (
        "local limit exceeded",
        "The peer has as many associations as it takes: end some, or raise its limit.",
    ),
}

# Reasons by OpenSSL's names.
TOO_OLD = (
    "ALERT_PROTOCOL_VERSION",
    "UNSUPPORTED_PROTOCOL",
    "NO_SHARED_CIPHER",
    "ALERT_INSUFFICIENT_SECURITY",
    "DH_KEY_TOO_SMALL",
)

# PS3.8 9.3.8.
ABORT_REASONS = {
    0: "no reason given",
    1: "unrecognized PDU",
    2: "unexpected PDU",
    4: "unrecognized PDU parameter",
    5: "unexpected PDU parameter",
    6: "invalid PDU parameter value",
}

# PS3.8 9.3.3.2.
CONTEXT_RESULTS = {
    1: "user rejection",
    2: "no reason",
    3: "abstract syntax not supported",
    4: "transfer syntaxes not supported",
}
