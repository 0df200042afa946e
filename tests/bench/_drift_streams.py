"""Synthetic studies for ``bench drift``: one hospital's radiographs, and its whole mix.

Each study is drawn from a few causes, and everything else follows from them, so that features hang
together as they do in a PACS:

    modality -> body part, SOP class, protocol, matrix
    view     -> age (bedside patients are older), kVp, matrix, anatomy in the picture
    device   -> manufacturer, model, coding, bit depth, spacing, noise, window
    habitus, exposure, contrast (hidden) -> intensities, noise, embedding
    window width -> every intensity statistic and the histogram
    compression  -> noise, sharpness, blur
    all of it    -> a 64-dimensional embedding, confidence, novelty, an abnormality score

Numbers are plausible, not measured: what the benchmark compares is two detectors on one stream.
A scenario changes one cause in a share ``weight`` of the studies. ``silent`` scenarios change the
pixels while the header says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DIMENSIONS = 64
TASK = "abnormal"

_SV1, _J2K, _RAW = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.1"
_M1, _M2 = "MONOCHROME1", "MONOCHROME2"
_DEVICES = (
    # model, manufacturer, share, syntax, bits, photometric, spacing, noise, window, side
    ("DRX-1", "Alpha", 0.34, _SV1, 12, _M2, 0.139, 0.00, 3000.0, 3072),
    ("DRX-2", "Alpha", 0.26, _SV1, 12, _M2, 0.143, 0.12, 3200.0, 2500),
    ("Mobile-5", "Beta", 0.22, _RAW, 14, _M1, 0.160, 0.30, 9000.0, 2140),
    ("Wall-3", "Gamma", 0.18, _J2K, 14, _M2, 0.148, -0.1, 8200.0, 2880),
)
_NEW_DEVICE = ("DRX-9", "Alpha", 0.0, _SV1, 12, _M2, 0.125, -0.35, 3600.0, 3408)
_MODALITIES = (
    # code, share, SOP class, body parts, side
    ("DX", 0.46, "1.2.840.10008.5.1.4.1.1.1.1", ("CHEST", "HAND", "KNEE"), 2500),
    ("CT", 0.24, "1.2.840.10008.5.1.4.1.1.2", ("CHEST", "HEAD", "ABDOMEN"), 512),
    ("MR", 0.16, "1.2.840.10008.5.1.4.1.1.4", ("HEAD", "KNEE", "SPINE"), 384),
    ("US", 0.14, "1.2.840.10008.5.1.4.1.1.6.1", ("ABDOMEN", "BREAST"), 768),
)
_LOSSY = "1.2.840.10008.1.2.4.50"


@dataclass(frozen=True)
class Scenario:
    """One cause changed.

    ``injected`` are the features that the scenario changes by hand: all else follows from them.
    """

    name: str
    strength: str
    injected: tuple[str, ...]
    mixed: bool = False
    projection: float = 0.0
    scanner: float = 0.0
    window: float = 1.0
    age_years: float = 0.0
    compression: float = 0.0
    modality: float = 0.0
    silent: bool = False


NO_DRIFT = Scenario("none", "", ())
INTENSITY = tuple(
    f"signals.{name}" for name in ("histogram", "mean", "std", "p05", "p50", "p95", "entropy_bits")
)
TEXTURE = (
    "signals.noise_sigma",
    "signals.sharpness",
    "quality.blur",
    "quality.snr1",
    "quality.cnr",
)
SCANNER = ("header.manufacturer_model", "header.device_key")
ANATOMY = (*INTENSITY, "signals.foreground_fraction", "embedding")
WINDOW = ("header.window_center", "header.window_width")
CODING = ("header.transfer_syntax_uid", "header.lossy_compressed")
SCENARIOS = (
    *(
        Scenario("projection mixed in", f"w={w}", ("header.view_position",), projection=w)
        for w in (0.05, 0.1, 0.25, 0.5)
    ),
    *(Scenario("scanner change", f"w={w}", SCANNER, scanner=w) for w in (0.05, 0.1, 0.25, 1.0)),
    *(Scenario("window/level change", f"width x{f}", WINDOW, window=f) for f in (1.15, 1.3, 2.0)),
    *(
        Scenario("age shift", f"{a:+} years", ("header.patient_age_years",), age_years=a)
        for a in (4, 8, 15)
    ),
    *(
        Scenario("compression added", f"w={w}", CODING, compression=w)
        for w in (0.05, 0.1, 0.25, 1.0)
    ),
    *(
        Scenario(
            "modality mix shift",
            f"CT +{w}",
            ("modality", "header.modality", "header.sop_class_uid"),
            mixed=True,
            modality=w,
        )
        for w in (0.08, 0.15, 0.3)
    ),
)
SILENT = (
    *(
        Scenario("projection, silent", f"w={w}", ANATOMY, projection=w, silent=True)
        for w in (0.1, 0.25)
    ),
    Scenario("window, silent", "width x1.3", INTENSITY, window=1.3, silent=True),
    *(
        Scenario("compression, silent", f"w={w}", TEXTURE, compression=w, silent=True)
        for w in (0.25, 1.0)
    ),
)


def make_columns(random: np.random.Generator, count: int, scenario: Scenario) -> dict:
    """Draw studies; returns columns as :class:`streams.profile.drift.units.Columns`."""
    draw = random.random
    normal = random.standard_normal
    n = count
    if scenario.mixed:
        shares = np.array([m[1] for m in _MODALITIES])
        shares[1] += scenario.modality
        kind = random.choice(len(_MODALITIES), size=n, p=shares / shares.sum())
    else:
        kind = np.zeros(n, dtype=int)
    radiograph = kind == 0
    device = random.choice(len(_DEVICES), size=n, p=[d[2] for d in _DEVICES])
    new_device = draw(n) < scenario.scanner
    rows_of = np.where(new_device, len(_DEVICES), device)
    catalog = (*_DEVICES, _NEW_DEVICE)
    bedside = draw(n) < np.where(device == 2, 0.9, 0.2)
    lateral = draw(n) < 0.004
    injected_lateral = draw(n) < scenario.projection
    lateral |= injected_lateral
    age = np.where(bedside, 66.0, 55.0) + 15.0 * normal(n) + scenario.age_years
    age = np.clip(np.round(age), 0, 90)
    habitus = normal(n) + 0.01 * (age - 58)
    exposure = 0.5 * habitus + 0.5 * normal(n)
    contrast = normal(n)
    anatomy = normal((n, 6))
    lossy = draw(n) < np.maximum(0.01, scenario.compression)

    part = random.integers(0, 1000, n)
    chest = part < 880
    body_part = [
        ("CHEST" if chest[i] else "ABDOMEN")
        if not scenario.mixed
        else _MODALITIES[kind[i]][3][part[i] % len(_MODALITIES[kind[i]][3])]
        for i in range(n)
    ]
    view_known = draw(n) > 0.04
    told = view_known & radiograph
    # What the acquisition says of the projection: silent scenarios leave all of it as it was.
    told_lateral = lateral & ~injected_lateral if scenario.silent else lateral
    view = np.where(told_lateral, "LL", np.where(bedside, "AP", "PA"))
    field = lambda k: np.array([d[k] for d in catalog], dtype=object)[rows_of]  # noqa: E731
    device_window = np.array([d[8] for d in catalog])[rows_of]
    device_noise = np.array([d[7] for d in catalog])[rows_of]
    device_side = np.array([d[9] for d in catalog])[rows_of].astype(float)
    auto_window = np.exp(0.18 * normal(n))
    width = device_window * auto_window * scenario.window
    told_width = width / scenario.window if scenario.silent else width
    narrow = np.log(auto_window * scenario.window)

    side = np.where(
        radiograph, device_side, np.array([m[4] for m in _MODALITIES])[kind].astype(float)
    )
    squeeze = np.where(told_lateral, 0.82, 1.0)
    columns_px = np.round(side * squeeze / 8) * 8 - 8 * (draw(n) < 0.15)
    rows_px = side
    kvp = (
        np.where(bedside, 90.0, 120.0)
        + np.where(told_lateral, 10.0, 0.0)
        + 5.0 * np.round(0.4 * normal(n))
    )
    kvp = np.where(radiograph, kvp, np.where(kind == 1, 120.0, np.nan))
    mas = np.where(
        radiograph, np.exp(0.8 + 0.4 * exposure + np.where(told_lateral, 0.7, 0.0)), np.nan
    )

    # Intensities of the displayed picture, 0 to 255.
    shift = np.array([0.0, -25.0, -40.0, -60.0])[kind]
    middle = 128 + shift - 14 * habitus + 8 * contrast - 55 * narrow + np.where(lateral, -22, 0)
    middle = middle + 4 * normal(n)
    spread = np.exp(np.log(52 + 3 * contrast) - 0.45 * narrow + np.where(lateral, 0.12, 0.0))
    spread = spread + 1.5 * normal(n)
    levels = (np.arange(32) + 0.5) * 8
    second = middle + 40 + 6 * anatomy[:, 0]
    bins = np.exp(-0.5 * ((levels - middle[:, None]) / spread[:, None]) ** 2)
    bins += 0.5 * np.exp(-0.5 * ((levels - second[:, None]) / (0.6 * spread[:, None])) ** 2)
    bins *= np.exp(0.05 * normal((n, 32)))
    bins /= bins.sum(axis=1, keepdims=True)
    mean = bins @ levels
    std = np.sqrt(bins @ levels**2 - mean**2)
    cumulative = np.cumsum(bins, axis=1)
    quantile = lambda q: 8 * (cumulative < q).sum(axis=1) + 4 * draw(n)  # noqa: E731
    entropy = -(bins * np.log2(np.maximum(bins, 1e-12))).sum(axis=1) + 2.0 + 0.05 * normal(n)

    noise = np.exp(
        1.1 + device_noise - 0.25 * exposure + 0.18 * normal(n) - np.where(lossy, 0.5, 0.0)
    )
    sharpness = np.exp(
        4.5 + 0.6 * device_noise + 0.3 * contrast + 0.3 * normal(n) - np.where(lossy, 0.4, 0)
    )
    blur = np.clip(0.35 - 0.04 * contrast + 0.03 * normal(n) + np.where(lossy, 0.05, 0.0), 0, 1)
    snr = np.exp(2.5 - 0.8 * np.log(noise / 3) + 0.2 * normal(n))
    cnr = 5 + contrast - 0.8 * np.log(noise) + 0.5 * normal(n)
    foreground = np.clip(
        0.8 - 0.03 * habitus + np.where(lateral, -0.08, 0) + 0.05 * normal(n) - 0.1 * (kind > 0),
        0,
        1,
    )

    embedding = _embed(
        random, kind, lateral, bedside, rows_of, habitus, contrast, narrow, lossy, anatomy, noise
    )
    far = lateral * 1.2 + 0.6 * new_device
    confidence = 1 / (1 + np.exp(-(3.2 - 0.8 * far + 0.8 * normal(n))))
    novelty = np.exp(0.3 * far + 0.35 * normal(n))
    score = 1 / (
        1
        + np.exp(
            -(-1.2 + 0.03 * (age - 58) + 0.5 * anatomy[:, 1] + 0.4 * lateral + 0.6 * normal(n))
        )
    )

    codes = np.array([m[0] for m in _MODALITIES], dtype=object)[kind]
    tell = lambda values: [v if r else None for v, r in zip(values, radiograph, strict=True)]  # noqa: E731
    syntax = field(3).copy()
    told_lossy = np.zeros(n, dtype=bool) if scenario.silent else lossy
    syntax[told_lossy] = _LOSSY
    return {
        "modality": codes.tolist(),
        "header.modality": codes.tolist(),
        "header.sop_class_uid": [_MODALITIES[k][2] for k in kind],
        "header.body_part": body_part,
        "header.view_position": [
            v if t else None for v, t in zip(view.tolist(), told, strict=True)
        ],
        "header.patient_age_years": age,
        "header.patient_sex": np.where(draw(n) < 0.52, "M", "F").tolist(),
        "header.manufacturer_model": tell(field(0)),
        "header.device_key": tell([f"k{d}" for d in rows_of]),
        "header.manufacturer": tell(field(1)),
        "header.kvp": kvp,
        "header.exposure_mas": mas,
        "format": ["dicom"] * n,
        "header.transfer_syntax_uid": syntax.tolist(),
        "header.lossy_compressed": np.where(told_lossy, "yes", "no").tolist(),
        "header.bits_stored": field(4).astype(float),
        "header.photometric_interpretation": tell(field(5)),
        "header.window_center": np.where(radiograph, np.round(told_width / 2), 40.0),
        "header.window_width": np.where(radiograph, np.round(told_width), 400.0),
        "header.rows": rows_px,
        "header.columns": columns_px,
        "header.pixel_spacing_mm": np.where(radiograph, field(6).astype(float), 0.7),
        "signals.histogram": np.sqrt(bins),
        "signals.mean": mean,
        "signals.std": std,
        "signals.p05": quantile(0.05),
        "signals.p50": quantile(0.5),
        "signals.p95": quantile(0.95),
        "signals.entropy_bits": entropy,
        "signals.foreground_fraction": foreground,
        "signals.aspect_ratio": columns_px / rows_px,
        "signals.noise_sigma": noise,
        "signals.sharpness": sharpness,
        "quality.blur": blur,
        "quality.snr1": snr,
        "quality.cnr": cnr,
        "embedding": embedding,
        "modality.confidence": confidence,
        "modality.novelty": novelty,
        f"prediction.{TASK}.label": np.where(score > 0.5, "abnormal", "normal").tolist(),
        f"prediction.{TASK}.score": score,
    }


_LOADINGS = np.random.RandomState(7).standard_normal((24, DIMENSIONS)) / np.sqrt(DIMENSIONS)


def _embed(
    random, kind, lateral, bedside, device, habitus, contrast, narrow, lossy, anatomy, noise
):
    n = len(kind)
    factors = np.zeros((n, 24))
    factors[:, 0] = 2.0
    factors[:, 1] = 1.6 * lateral
    factors[:, 2] = 0.5 * bedside
    factors[:, 3] = 0.3 * habitus
    factors[:, 4] = 0.25 * contrast
    factors[:, 5] = 0.6 * narrow
    factors[:, 6] = 0.25 * lossy
    factors[:, 7] = 0.15 * np.log(noise)
    factors[:, 8:14] = 0.35 * anatomy
    factors[np.arange(n), 14 + device] = 0.35
    factors[np.arange(n), 20 + kind] = 2.0 * (kind > 0)
    vectors = factors @ _LOADINGS + 0.45 * random.standard_normal((n, DIMENSIONS)) / np.sqrt(
        DIMENSIONS
    )
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
