"""What becomes of the body of a Store request, without a network."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from dicom_gateway.aes.uid_rules import Verdict
from dicom_gateway.dicomweb.credentials import Credentials, CredentialsError, read_credentials
from dicom_gateway.dicomweb.multipart import MultipartDecoder, SinglePartDecoder
from dicom_gateway.dicomweb.part10_reader import MAX_META_BYTES, read_file_meta
from dicom_gateway.dicomweb.response import (
    JSON,
    UNSUPPORTED_PART,
    XML,
    Failed,
    Outcome,
    Stored,
    encode_module,
    http_status,
    response_module,
)
from dicom_gateway.dicomweb.upload import MAX_HEAD_BYTES, Upload
from dicom_gateway.storing.arrival import Origin
from dicom_gateway.storing.inbox import Inbox
from dicom_gateway.storing.part10 import PREAMBLE, file_prefix
from dicom_gateway.storing.receiver import Arrival, Receiver
from dicom_gateway.storing.statuses import InvalidSopClassError, UnreadableDatasetError
from schemas import FileReceived, decode
from schemas.facts import Association

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
STUDY = "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322"
ORIGIN = Origin(
    tenant="clinic",
    dataset_id="pacs",
    association=Association(
        association_id="r1", calling_ae_title="", called_ae_title="", peer_address="127.0.0.1"
    ),
)
CT_FILE = Path(str(get_testdata_file("CT_small.dcm"))).read_bytes()
DATASET = CT_FILE[read_file_meta(CT_FILE, at_end=True).size_bytes :]  # type: ignore[union-attr]
INSTANCE = str(dcmread(io.BytesIO(CT_FILE)).SOPInstanceUID)


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    if vr in (b"OB", b"UN"):
        return struct.pack("<HH2sHI", group, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


class Gateway:
    """The real receiver, without ledger and blob store behind it."""

    def __init__(self, folder: Path, max_dataset_bytes: int = 1 << 30) -> None:
        folder.mkdir()
        self.folder = folder
        self.arrivals: list[Arrival] = []
        self.pressure = ""
        self._inbox = Inbox(folder, token="t", spare=0)
        self.receiver = Receiver(
            self._inbox,
            uri=lambda sha256: f"file:///blobs/{sha256}",
            on_arrival=self.arrivals.append,
            clock=lambda: datetime(2026, 3, 1, tzinfo=timezone.utc),
            max_dataset_bytes=max_dataset_bytes,
            pressure=lambda: self.pressure,
        )

    def events(self) -> list[FileReceived]:
        return [decode(arrival.arrived.value, FileReceived) for arrival in self.arrivals]

    def files(self) -> list[bytes]:
        found = []
        for arrival, event in zip(self.arrivals, self.events(), strict=True):
            found.append((self.folder / arrival.slot).read_bytes()[: event.blob.size_bytes])
        return found

    def is_clean(self) -> bool:
        return len(list(self.folder.glob("*.slot"))) == len(self.arrivals)

    def close(self) -> None:
        self._inbox.close()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path / "inbox")
    yield gateway
    gateway.close()


def push(gateway: Gateway, file: bytes, *, step: int = 1 << 20, **options: Any) -> Outcome:
    decoder = SinglePartDecoder({"content-type": "application/dicom"})
    upload = Upload(gateway.receiver, decoder, origin=ORIGIN, **options)
    for at in range(0, len(file), step):
        upload.feed(file[at : at + step])
    upload.finish()
    upload.abort()
    (outcome,) = upload.outcomes
    return outcome


def meta(*elements: bytes, length: int | None = None) -> bytes:
    group = b"".join(elements)
    declared = len(group) if length is None else length
    return PREAMBLE + element(2, 0, b"UL", struct.pack("<I", declared)) + group


SOP_CLASS = element(2, 2, b"UI", CT.encode() + b"\0")
SOP_INSTANCE = element(2, 3, b"UI", b"1.2.3\0")
SYNTAX = element(2, 0x10, b"UI", EXPLICIT.encode() + b"\0")


class TestFileMeta:
    @pytest.mark.parametrize("length", [None, 0, 4, 26, 1 << 20])
    def test_the_group_length_may_be_wrong(self, length: int | None) -> None:
        head = meta(SOP_CLASS, SOP_INSTANCE, SYNTAX, length=length)
        found = read_file_meta(head + DATASET, at_end=True)
        assert found is not None
        assert (found.sop_class_uid, found.sop_instance_uid) == (CT, "1.2.3")
        assert (found.transfer_syntax_uid, found.size_bytes) == (EXPLICIT, len(head))

    def test_every_byte_more_changes_none_to_the_answer_once(self) -> None:
        head = meta(SOP_CLASS, SOP_INSTANCE, SYNTAX)
        whole = read_file_meta(head + DATASET, at_end=True)
        for size_bytes in range(len(head) + 100):
            found = read_file_meta((head + DATASET)[:size_bytes], at_end=False)
            assert found == (whole if size_bytes >= len(head) + 8 else None)

    def test_a_deflated_dataset_that_looks_like_the_group(self) -> None:
        head = meta(SOP_CLASS, SYNTAX)
        found = read_file_meta(head + b"\x02\x00\x01\x02ZZ\x00\x00\x00", at_end=True)
        assert found is not None
        assert found.size_bytes == len(head)

    def test_nothing_behind_it(self) -> None:
        head = meta(SOP_CLASS, SYNTAX)
        found = read_file_meta(head, at_end=True)
        assert found is not None
        assert found.size_bytes == len(head)

    @pytest.mark.parametrize(
        ("head", "message"),
        [
            (b"", "no DICOM file"),
            (PREAMBLE[:-1], "no DICOM file"),
            (bytes(400), "no DICOM file"),
            (DATASET[:400], "no DICOM file"),
            (meta(SOP_CLASS)[:-3], "breaks off"),
            (meta(element(2, 1, b"OB", b"\0\1")[:10], length=99), "something else"),
            (meta(b"\2\0\1\0ZZ\0\0", length=99) + DATASET, "something else"),
            (meta(struct.pack("<HH2sHI", 2, 1, b"OB", 0, 0xFFFFFFFF), length=99), "something else"),
            (meta(struct.pack("<HH2sHI", 2, 1, b"OB", 0, 1 << 31)), "longer than"),
            (meta(*[element(2, 0x102, b"OB", bytes(9000))] * 9), "longer than"),
        ],
    )
    def test_what_is_no_file_meta_information(self, head: bytes, message: str) -> None:
        with pytest.raises(UnreadableDatasetError, match=message):
            read_file_meta(head, at_end=True)

    def test_it_may_not_go_on_for_ever(self) -> None:
        endless = meta() + element(2, 0x26, b"UR", b"") * (MAX_META_BYTES // 8)
        with pytest.raises(UnreadableDatasetError, match="65536"):
            read_file_meta(endless, at_end=False)

    @given(st.binary(max_size=300), st.booleans())
    def test_any_bytes(self, tail: bytes, at_end: bool) -> None:
        with contextlib.suppress(UnreadableDatasetError):
            read_file_meta(PREAMBLE + tail, at_end=at_end)


class TestUpload:
    def test_the_dataset_is_stored_as_it_came_under_our_own_prefix(self, gateway: Gateway) -> None:
        # The sender's preamble and File Meta Information are its own; they are no content.
        assert push(gateway, CT_FILE) == Stored(CT, INSTANCE)
        assert gateway.files() == [file_prefix(CT, INSTANCE, EXPLICIT) + DATASET]

    def test_c_store_and_stow_make_the_same_image(self, gateway: Gateway) -> None:
        incoming = gateway.receiver.begin(
            sop_class_uid=CT,
            sop_instance_uid=INSTANCE,
            transfer_syntax_uid=EXPLICIT,
            origin=ORIGIN,
        )
        incoming.write(DATASET)
        incoming.finish()
        push(gateway, CT_FILE)
        first, second = gateway.events()
        assert first.image_id == second.image_id
        assert first.file_id == second.file_id

    def test_the_event_names_tenant_dataset_and_request(self, gateway: Gateway) -> None:
        push(gateway, CT_FILE)
        (event,) = gateway.events()
        assert (event.tenant, event.dataset_id) == ("clinic", "pacs")
        assert event.association == ORIGIN.association

    @pytest.mark.parametrize("study_uid", ["", STUDY])
    @pytest.mark.parametrize("step", [1, 7, 333])
    def test_it_does_not_matter_how_the_bytes_come(
        self, gateway: Gateway, step: int, study_uid: str
    ) -> None:
        assert push(gateway, CT_FILE, step=step, study_uid=study_uid) == Stored(CT, INSTANCE)
        assert gateway.files() == [file_prefix(CT, INSTANCE, EXPLICIT) + DATASET]

    def test_another_study_than_the_urls(self, gateway: Gateway) -> None:
        outcome = push(gateway, CT_FILE, study_uid="1.2.3")
        assert isinstance(outcome, Failed)
        assert (outcome.status, outcome.sop_instance_uid) == (0xA901, INSTANCE)
        assert gateway.is_clean()
        assert not gateway.arrivals

    def test_the_study_of_a_deflated_dataset(self, gateway: Gateway) -> None:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        file = file_prefix(CT, INSTANCE, DEFLATED)
        file += deflater.compress(DATASET) + deflater.flush()
        assert push(gateway, file, study_uid=STUDY, step=1000) == Stored(CT, INSTANCE)
        refused = push(gateway, file, study_uid="1.2", step=1000)
        assert isinstance(refused, Failed)
        assert refused.reason == "study-mismatch"

    def test_the_datasets_uids_stand_in_for_those_of_the_file_meta(self, gateway: Gateway) -> None:
        assert push(gateway, meta(SYNTAX) + DATASET, step=999) == Stored(CT, INSTANCE)

    def test_the_head_is_bounded(self, gateway: Gateway) -> None:
        long = element(9, 0x1001, b"UN", bytes(2 * MAX_HEAD_BYTES))
        head = element(8, 0x16, b"UI", CT.encode() + b"\0") + element(8, 0x18, b"UI", b"1.2.3\0")
        file = meta(SOP_CLASS, SOP_INSTANCE, SYNTAX) + head + long
        file += element(0x20, 0xD, b"UI", b"1.2\0") + element(0x20, 0xE, b"UI", b"1.3\0")
        refused = push(gateway, file, step=64 * 1024, study_uid="1.2")
        assert isinstance(refused, Failed)
        assert (refused.status, refused.sop_instance_uid) == (0xC000, "1.2.3")
        # Without a study to compare with, nothing needs to be held.
        assert push(gateway, file, step=64 * 1024) == Stored(CT, "1.2.3")

    @pytest.mark.parametrize(
        ("file", "status", "uid"),
        [
            (b"not DICOM at all", 0xC000, ""),
            (CT_FILE[:200], 0xC000, ""),
            (meta(SOP_CLASS, SOP_INSTANCE) + DATASET, 0xC000, "1.2.3"),
            (meta(SOP_CLASS, SOP_INSTANCE, SYNTAX), 0xC001, "1.2.3"),
            (meta(SOP_CLASS, SOP_INSTANCE, SYNTAX) + DATASET, 0xA900, "1.2.3"),
            (meta(SOP_CLASS, SOP_INSTANCE, SYNTAX) + DATASET[:40], 0xC000, "1.2.3"),
            (meta(SYNTAX) + bytes(100), 0xC000, ""),
            (meta(SOP_CLASS, element(2, 3, b"UI", b"../../a\0"), SYNTAX) + DATASET, 0x0117, ""),
            (meta(element(2, 2, b"UI", b"CT"), SOP_INSTANCE, SYNTAX) + DATASET, 0x0122, ""),
        ],
    )
    def test_a_file_that_is_not_stored(
        self, gateway: Gateway, file: bytes, status: int, uid: str
    ) -> None:
        outcome = push(gateway, file)
        assert isinstance(outcome, Failed)
        assert (outcome.status, outcome.sop_instance_uid) == (status, uid)
        assert gateway.is_clean()
        assert not gateway.arrivals

    def test_too_long_a_dataset(self, tmp_path: Path) -> None:
        gateway = Gateway(tmp_path / "small", max_dataset_bytes=10_000)
        outcome = push(gateway, CT_FILE, step=4096)
        assert isinstance(outcome, Failed)
        assert (outcome.status, outcome.sop_instance_uid) == (0xA701, INSTANCE)
        assert gateway.is_clean()
        gateway.close()

    def test_out_of_resources_and_back(self, gateway: Gateway) -> None:
        gateway.pressure = "the disk is nearly full"
        refused = push(gateway, CT_FILE)
        assert refused == Failed(
            0xA700, "out-of-resources", "the disk is nearly full", CT, INSTANCE
        )
        gateway.pressure = ""
        assert push(gateway, CT_FILE) == Stored(CT, INSTANCE)

    def test_what_the_rules_ignore_is_answered_and_not_stored(self, gateway: Gateway) -> None:
        asked = []

        def admit(sop_class_uid: str, transfer_syntax_uid: str) -> Verdict:
            asked.append((sop_class_uid, transfer_syntax_uid))
            return Verdict.IGNORE

        assert push(gateway, CT_FILE, step=5000, admit=admit) == Stored(CT, INSTANCE)
        assert asked == [(CT, EXPLICIT)]
        assert not gateway.arrivals

    def test_what_the_rules_refuse(self, gateway: Gateway) -> None:
        def admit(sop_class_uid: str, transfer_syntax_uid: str) -> Verdict:
            raise InvalidSopClassError("not here")

        refused = push(gateway, CT_FILE, admit=admit)
        assert refused == Failed(0x0122, "invalid-sop-class", "not here", CT, INSTANCE)

    def test_a_fault_of_ours_is_told_without_its_message(self, gateway: Gateway) -> None:
        def admit(sop_class_uid: str, transfer_syntax_uid: str) -> Verdict:
            raise ValueError("Doe^Jane")

        refused = push(gateway, CT_FILE, admit=admit)
        assert refused == Failed(0x0110, "processing-failure", "processing-failure", CT, INSTANCE)

    @pytest.mark.parametrize(
        "header",
        [
            b"Content-Type: application/dicom+json",
            b"Content-Type: image/jpeg",
            b"Content-Type: multipart/related; boundary=i",
            b"Content-Type: nonsense",
            b"Content-Type: application/dicom\r\nContent-Transfer-Encoding: base64",
            b"Content-Type: application/dicom\r\nContent-Encoding: gzip",
        ],
    )
    def test_a_part_of_another_kind_spoils_no_other(self, gateway: Gateway, header: bytes) -> None:
        upload = Upload(
            gateway.receiver, MultipartDecoder("b", max_parts=9), origin=ORIGIN, study_uid=""
        )
        upload.feed(b"--b\r\n" + header + b"\r\n\r\n" + CT_FILE)
        upload.feed(b"\r\n--b\r\ncontent-type: APPLICATION/DICOM; transfer-syntax=*\r\n\r\n")
        upload.feed(CT_FILE + b"\r\n--b\r\n\r\n" + CT_FILE + b"\r\n--b--")
        upload.finish()
        failed, *stored = upload.outcomes
        assert isinstance(failed, Failed)
        assert failed.status == UNSUPPORTED_PART
        assert stored == [Stored(CT, INSTANCE)] * 2

    def test_a_request_that_is_given_up_leaves_what_is_stored_and_nothing_else(
        self, gateway: Gateway
    ) -> None:
        upload = Upload(gateway.receiver, MultipartDecoder("b", max_parts=9), origin=ORIGIN)
        upload.feed(b"--b\r\n\r\n" + CT_FILE + b"\r\n--b\r\n\r\n" + CT_FILE[:20_000])
        assert len(list(gateway.folder.glob("*.slot"))) == 2
        upload.abort()
        upload.feed(CT_FILE[20_000:] + b"\r\n--b--")
        upload.finish()
        assert upload.outcomes == [Stored(CT, INSTANCE)]
        assert len(gateway.arrivals) == 1
        assert gateway.is_clean()


UIDS = st.from_regex(r"[0-2](\.(0|[1-9][0-9]{0,8})){1,6}", fullmatch=True)
STORED = st.builds(Stored, UIDS, UIDS)
FAILED = st.builds(Failed, st.integers(1, 0xFFFF), st.just("r"), st.just("c"), UIDS, UIDS)
OTHER = st.builds(Failed, st.integers(1, 0xFFFF), st.just("r"), st.just("c"))


class TestResponse:
    @given(st.lists(st.one_of(STORED, FAILED, OTHER), max_size=6))
    def test_pydicom_reads_the_json_module(self, outcomes: list[Outcome]) -> None:
        module = encode_module(response_module(outcomes), JSON)
        read = Dataset.from_json(module.decode())
        assert [
            Stored(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID)
            for item in read.get("ReferencedSOPSequence", [])
        ] == [outcome for outcome in outcomes if isinstance(outcome, Stored)]
        failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
        assert [
            (item.FailureReason, item.ReferencedSOPInstanceUID)
            for item in read.get("FailedSOPSequence", [])
        ] == [(one.status, one.sop_instance_uid) for one in failed if one.sop_instance_uid]
        assert [item.FailureReason for item in read.get("OtherFailuresSequence", [])] == [
            one.status for one in failed if not one.sop_instance_uid
        ]
        # Type 2: there, and empty because nothing can be retrieved.
        assert json.loads(module)["00081190"] == {"vr": "UR"}

    @given(st.lists(st.one_of(STORED, FAILED, OTHER), max_size=6))
    def test_the_xml_module_says_the_same(self, outcomes: list[Outcome]) -> None:
        module = response_module(outcomes)
        root = ElementTree.fromstring(encode_module(module, XML))
        assert _json_of(root) == module

    @pytest.mark.parametrize(
        ("outcomes", "broken", "status"),
        [
            ([Stored("1", "2")], None, 200),
            ([Stored("1", "2")], 400, 202),
            ([Stored("1", "2"), Failed(0xC000, "", "")], None, 202),
            ([Failed(0xC000, "", "")], None, 409),
            ([Failed(0xA700, "", ""), Failed(0xA900, "", "")], None, 409),
            ([Failed(0xA700, "", "")] * 2, None, 503),
            ([Failed(0xA701, "", "")], None, 413),
            ([Failed(UNSUPPORTED_PART, "", "")], None, 415),
            ([Failed(0xA700, "", "")], 408, 408),
            ([], None, 400),
            ([], 413, 413),
        ],
    )
    def test_the_http_status(
        self, outcomes: list[Outcome], broken: int | None, status: int
    ) -> None:
        assert http_status(outcomes, broken) == status


def _json_of(node: ElementTree.Element) -> dict[str, Any]:
    namespace = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
    found: dict[str, Any] = {}
    for attribute in node:
        assert attribute.tag == namespace + "DicomAttribute"
        values: list[Any] = []
        for number, child in enumerate(attribute, 1):
            assert child.get("number") == str(number)
            if child.tag == namespace + "Item":
                values.append(_json_of(child))
            else:
                text = child.text or ""
                values.append(int(text) if attribute.get("vr") == "US" else text)
        one: dict[str, Any] = {"vr": attribute.get("vr")}
        found[str(attribute.get("tag"))] = one | ({"Value": values} if values else {})
    return found


class TestCredentials:
    def test_tokens_and_passwords(self) -> None:
        known = Credentials(["t0ken"], ["pacs:p: \xe9"])
        assert known.accept("Bearer t0ken")
        assert known.accept("bearer  t0ken ")
        assert known.accept("Basic cGFjczpwOiDDqQ==")
        for wrong in ("", "t0ken", "Bearer", "Bearer t0ke", "Basic t0ken", "Basic cGFjcw=="):
            assert not known.accept(wrong)
        assert not known.accept("Bearer pacs:p: \xe9")
        assert known.challenges == ('Basic realm="dicomweb"', 'Bearer realm="dicomweb"')

    @given(st.text(max_size=40))
    def test_any_header(self, text: str) -> None:
        assert not Credentials(["a long secret"]).accept(text)

    def test_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "credentials"
        path.write_text("# who may push\n\nbearer abc\nBasic user:word with spaces\n")
        known = read_credentials(path)
        assert known.accept("Bearer abc")
        assert known.accept("Basic dXNlcjp3b3JkIHdpdGggc3BhY2Vz")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "holds no credential"),
            ("secret\n", "line 1 of .* is no credential"),
            ("bearer a b\n", "line 1"),
            ("bearer a\nbasic b\n", "line 2"),
        ],
    )
    def test_a_file_that_is_none(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "credentials"
        path.write_text(text)
        with pytest.raises(CredentialsError, match=message):
            read_credentials(path)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(CredentialsError, match="bearer TOKEN"):
            read_credentials(tmp_path / "none")
