"""A closed vocabulary of imaging terms: the only words of free text that leave the blob.

Descriptions are written by people and hold anything, names too. Each known word becomes its
English term; every other word is dropped. English, German, French, Spanish, Italian, Portuguese
and Dutch spellings, without their accents.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from streams.sniff.months import without_months

MAX_TERMS = 32
MAX_TEXT_CHARS = 256

# Term: its spellings. A term is a spelling of itself. Two words are written with a space.
_TERMS: dict[str, str] = {
    # Planes and kinds of series
    "axial": "ax|axi|axiale|axiales|tra|trans|transversal|transversale|transverse|transaxial|"
    "transversaal",
    "coronal": "cor|coronale|coronales|koronar|frontal|frontale|coronaal",
    "sagittal": "sag|sagital|sagittale|sagitale|sagittaal",
    "oblique": "obl|obliqua|obliquo|oblicua|oblicuo|schräg|schuin",
    "localizer": "loc|localiser|scout|topogram|topogramm|topogramme|topo|survey|surview|scanogram|"
    "planscan|three plane|3 plane|3plane|plan scan|localizador|localizzatore|repérage|reperage|"
    "lokalizer|übersicht",
    "reformat": "mpr|reformatted|reformation|reformatierung|rekonstruktion|recon|reconstruction|"
    "reconstruccion|ricostruzione|reconstrucao|reconstructie|multiplanar",
    "maximum-intensity-projection": "mip",
    "minimum-intensity-projection": "minip",
    "volume-rendering": "vrt|volume rendering|3d rendering",
    "derived": "",
    "secondary-capture": "secondary capture|screenshot|screen save|screensave",
    "dose-report": "dose report|dosis|dosisbericht|dose summary|patient protocol",
    "scan-2d": "2d",
    "scan-3d": "3d",
    "scan-4d": "4d",
    "dynamic": "dyn|dynamisch|dynamique|dinamico|dinamica|dynamic study|cine|kine",
    "perfusion": "perf|perfusión|perfusione|perfusie",
    "whole-body": "whole body|wholebody|wb|ganzkörper|corps entier|cuerpo entero|total body|"
    "corpo inteiro|eyes to thighs",
    "low-dose": "low dose|lowdose|ldct|niedrigdosis|baja dosis",
    "high-resolution": "hrct|high resolution|hires|hochauflösend",
    "thin-slice": "thin|dünn|thins",
    "thick-slice": "thick",
    "attenuation-correction": "ac|attenuation correction|ctac|mrac|attenuation",
    "non-attenuation-corrected": "nac|uncorrected|no ac",
    # Modalities, as words in descriptions
    "ct": "computed tomography|scanner|tac|tc|computertomographie|tdm|tomografía|tomografia|"
    "tomographie|cat scan",
    "mr": "mri|mrt|irm|rmn|resonancia|risonanza|ressonância|kernspin",
    "pet": "positron|tep|fdg pet",
    "spect": "gammagrafía|szintigraphie|scintigraphy|scintigraphie|scintigrafia|scintigrafie",
    "ultrasound": "us|sono|echocardiography|echocardiogram|echokardiographie|sonography|"
    "sonographie|sonografie|ultraschall|échographie|"
    "ecografía|ecografia|ultrasonido|ultrassom|echografie",
    "radiograph": "xray|x ray|xr|röntgen|rx|radiography|radiographie|radiografía|radiografia|"
    "plain film|roentgen",
    "mammogram": "mammo|mammography|mammographie|mamografía|mamografia|mammografia|mammografie|mg",
    "tomosynthesis": "tomo|dbt|tomosynthese|tomosíntesis|tomosintesi",
    "angiography": "angio|angiogram|cta|mra|dsa|angiographie|angiografía|angiografia|angiografie|"
    "tof angio",
    "fluoroscopy": "fluoro|durchleuchtung|scopie|fluoroscopia|fluoroscopie",
    "endoscopy": "endoskopie|endoscopie|endoscopia|colonoscopy|koloskopie|gastroscopy|"
    "gastroskopie|bronchoscopy",
    "dermoscopy": "dermatoscopy|dermatoskopie|dermatoscopie|dermoscopia",
    "fundus": "fundus photo|retinal photo|augenhintergrund",
    "oct": "optical coherence tomography",
    "histology": "histo|pathology|pathologie|patologia|biopsy|biopsie|biopsia|h e|he stain",
    "elastography": "elasto|elastographie|elastografia",
    "doppler": "cfm|duplex|color flow",
    # MR weightings and sequences
    "t1": "t1w|t1 weighted|t1wi|t1gewichtet",
    "t2": "t2w|t2 weighted|t2wi|t2gewichtet",
    "t2-star": "t2star|t2 star",
    "proton-density": "pd|pdw|dp|proton density|protonendichte|rho",
    "flair": "tirm dark fluid|dark fluid|darkfluid",
    "stir": "tirm",
    "inversion-recovery": "ir|inversion recovery",
    "diffusion": "dwi|diff|diffusionsgewichtet|difusión|diffusione|difusao|diffusie|dw",
    "diffusion-tensor": "dti|tensor",
    "apparent-diffusion-coefficient": "adc",
    "fractional-anisotropy": "fa",
    "trace": "tracew|isotropic",
    "spin-echo": "se|spin echo",
    "turbo-spin-echo": "tse|fse|frfse|turbo spin echo|fast spin echo|space|vista",
    "single-shot": "haste|ssfse|sshtse|single shot",
    "gradient-echo": "gre|ffe|fgre|spgr|flash|tfe|gradient echo|vibe|lava|thrive|fspgr",
    "steady-state": "trufi|truefisp|fiesta|bssfp|bffe|ciss|ssfp",
    "mprage": "mp rage|bravo|ir fspgr|mp2rage",
    "echo-planar": "epi|echo planar",
    "fmri": "bold|functional|resting state",
    "susceptibility": "swi|swan|swip|venbold|suszeptibilität",
    "time-of-flight": "tof|time of flight",
    "phase-contrast": "pc|phase contrast|phasenkontrast",
    "arterial-spin-labeling": "asl|pcasl|pasl|spin labeling",
    "spectroscopy": "spectro|spektroskopie|spectroscopie|espectroscopia",
    "cholangiopancreatography": "mrcp|cpre|ercp|colangio",
    "fat-suppressed": "fs|fatsat|fat sat|fat saturation|fat suppressed|spair|spir|fettgesättigt",
    "dixon": "ideal|water fat|mdixon",
    "water": "wasser|water only",
    "fat": "fett|fat only",
    "in-phase": "in phase|inphase|ip",
    "opposed-phase": "opp|out phase|opposed phase|out of phase|oop",
    "magnitude": "mag|magnitud",
    "phase-image": "pha|phase image",
    "field-map": "fieldmap|field map|fmap|gre field mapping",
    "b0": "b 0",
    "mapping": "map|maps|parametric",
    "late-enhancement": "lge|late enhancement|delayed enhancement|psir",
    "short-axis": "sax|short axis",
    "long-axis": "lax|long axis",
    "four-chamber": "4ch|four chamber|4 chamber",
    "two-chamber": "2ch|two chamber|2 chamber",
    # Contrast and phase
    "contrast": "cm|km|kontrast|kontrastmittel|contraste|contrasto|mdc|gd|gad|gadolinium|"
    "enhanced|contrast enhanced|ce|iv contrast|pdc|mdkontrast|ivc",
    "without-contrast": "nativ|native|w o|wo contrast|non contrast|noncontrast|unenhanced|ncct|"
    "without contrast|"
    "sans injection|sin contraste|senza mdc|sem contraste|zonder contrast|blanco|"
    "non enhanced|nect",
    "with-contrast": "with contrast|w contrast|avec injection|con contraste|con mdc|com contraste|"
    "met contrast|mit km|cect|post contrast|postcontrast|post gd|post gad",
    "pre": "pre contrast|precontrast|prekontrast",
    "post": "",
    "arterial": "art|arteriell|artérielle|arteriële|late arterial|early arterial",
    "venous": "ven|venös|veineux|veineuse|venoso|venosa|veneus",
    "portal-venous": "portal|portalvenös|portovenous|pv|portal venous|porta|portale|pvp",
    "delayed": "delay|late|spät|tardif|tardive|tardía|tardivo|tardia|excretory|urographic",
    "phase": "phasen|fase",
    # Anatomy
    "head": "kopf|tête|tete|cabeza|testa|cabeça|cabeca|hoofd|capo|cranial|caput|schädelbasis",
    "skull": "schädel|crâne|cráneo|cranio|crânio|schedel|cranium|calvarium",
    "brain": "gehirn|hirn|cerveau|cerebro|cérebro|cervello|encephale|encéphale|encefalo|hersenen|"
    "cerebral|cerebrum|cerebrale|neuro|encefálica|encephalon",
    "pituitary": "hypophyse|hipófisis|ipofisi|hipófise|sella|sellar",
    "orbit": "orbits|orbita|orbite|orbites|orbitas|augenhöhle|eye|auge|œil|oeil|ojo|occhio|olho|"
    "oog",
    "retina": "netzhaut|rétine|retine|macula|makula",
    "sinuses": "sinus|nnh|nasennebenhöhlen|paranasal|senos|seni",
    "temporal-bone": "felsenbein|iac|petrous|rocher|temporal bone|mastoid|inner ear",
    "face": "facial|gesicht|visage|cara|volto|gezicht|mittelgesicht|maxillofacial",
    "jaw": "mandible|kiefer|mandibula|mandíbula|mâchoire|mandibule|mandibola|maxilla|tmj",
    "teeth": "dental|zahn|zähne|dent|dents|dientes|denti|dentes|tooth|opg|panoramic|"
    "orthopantomogram|dvt",
    "neck": "hals|cou|cuello|collo|pescoço|pescoco|nek|soft tissue neck",
    "thyroid": "schilddrüse|thyroïde|tiroides|tiroide|tireoide|schildklier",
    "carotid": "carotids|karotis|carotide|carotides|carótida|carotidi|carotis",
    "chest": "thorax|thoracic|tórax|torace|brustkorb|poumons thorax|cxr|borst|torax|toracica",
    "lung": "lungs|lunge|poumon|poumons|pulmón|pulmon|pulmones|polmone|polmoni|pulmão|longen|"
    "pulmonary|pulmo",
    "heart": "cardiac|cardio|herz|coeur|cœur|corazón|corazon|cuore|coração|coracao|hart|kardio|"
    "cardiaque|cardiaco",
    "coronary": "coronaries|koronarien|coronaire|coronarias|coronarie|coronárias|ccta|"
    "calcium score|calcium scoring|cascore",
    "aorta": "aorte|aortic|aortica",
    "pulmonary-embolism": "ctpa|pulmonary embolism|lungenembolie|cpta|lae",
    "mediastinum": "mediastinal|médiastin|mediastino",
    "breast": "brust|mamma|mammae|sein|seins|mama|mamas|mammella|seno|borsten|mammaire",
    "abdomen": "abd|abdominal|bauch|ventre|addome|abdome|buik|oberbauch|upper abdomen|kub",
    "liver": "leber|foie|hígado|higado|fegato|fígado|figado|lever|hepatic|hepar|hepatique",
    "gallbladder": "gallenblase|vésicule|vesícula|colecisti|galblaas",
    "pancreas": "pankreas|pancréas|páncreas|pâncreas|alvleesklier",
    "spleen": "milz|bazo|milza|baço|milt",
    "kidney": "kidneys|niere|nieren|rein|reins|riñón|riñones|rene|reni|rim|rins|nier|renal|"
    "urogram|urography",
    "adrenal": "adrenals|nebenniere|surrénale|suprarrenal|surrene|bijnier",
    "bladder": "blase|harnblase|vessie|vejiga|vescica|bexiga|blaas",
    "bowel": "darm|intestin|intestino|colon|kolon|enterography|enteroclysis|rectum|rektum|recto|"
    "retto|colonography",
    "stomach": "magen|estomac|estómago|stomaco|estômago|maag",
    "prostate": "prostata|próstata|pirads|prostaat",
    "uterus": "utérus|útero|utero|gebärmutter|baarmoeder|pelvic floor",
    "ovary": "ovaries|ovar|ovaire|ovario|ovário|eierstock",
    "fetus": "fetal|foetal|fötus|foetus|feto|obstetric|obstetrics|ob|schwangerschaft|fötal",
    "pelvis": "becken|bassin|pelvic|bacino|bekken|pelvien",
    "hip": "hips|hüfte|hanche|cadera|anca|quadril|heup",
    "thigh": "oberschenkel|cuisse|muslo|coscia|coxa|dij",
    "femur": "fémur|femoral|femore|fêmur",
    "knee": "knees|knie|genou|rodilla|ginocchio|joelho|patella",
    "lower-leg": "lower leg|unterschenkel|jambe|tibia|fibula|calf|onderbeen|pierna|gamba|perna",
    "leg": "legs|bein|beine|lower extremity|untere extremität|lower limb|runoff",
    "ankle": "sprunggelenk|cheville|tobillo|caviglia|tornozelo|enkel|osg",
    "foot": "feet|fuß|fuss|pied|pie|piede|pé|voet|toe|toes|calcaneus|heel",
    "shoulder": "schulter|épaule|epaule|hombro|spalla|ombro|schouder|clavicle|scapula",
    "humerus": "oberarm|humérus|húmero|omero|bovenarm",
    "elbow": "ellenbogen|ellbogen|coude|codo|gomito|cotovelo|elleboog",
    "forearm": "unterarm|antebrazo|avambraccio|antebraço|onderarm|radius|ulna",
    "wrist": "handgelenk|poignet|muñeca|polso|punho|pols|carpal",
    "hand": "hände|mano|mão|hands",
    "finger": "fingers|doigt|dedo|dito|vinger|thumb|daumen",
    "arm": "arms|bras|brazo|braccio|braço|upper extremity|upper limb",
    "spine": "wirbelsäule|ws|rachis|colonne|columna|colonna|coluna|wervelkolom|spinal|vertebral|"
    "myelogram|myelo",
    "cervical-spine": "cspine|c spine|hws|cervical|cervicale|zervikal|cwk|cervicales",
    "thoracic-spine": "tspine|t spine|bws|dorsal|dorsale|thoracic spine|twk",
    "lumbar-spine": "lspine|l spine|lws|lumbar|lumbal|lombaire|lombare|lombar|lumbosacral|ls spine|"
    "lwk|rachis lombaire",
    "sacrum": "sacral|sacroiliac|isg|si joints|kreuzbein|sacro|sacré|sacrum coccyx|coccyx",
    "ribs": "rib|rippen|rippe|côtes|costillas|costole|costelas|ribben",
    "sternum": "brustbein|esternón|sterno|esterno",
    "bone": "bones|knochen|hueso|osso|osseous|skeletal|skelett",
    "soft-tissue": "soft tissue|weichteil|weichteile|parties molles|partes blandas|tessuti molli|"
    "standard kernel",
    "joint": "gelenk|articulation|articulación|articolazione|gewricht",
    "vessel": "vascular|gefäße|gefäß|vaisseaux|vasos|vasi|vaten|peripheral",
    "lymph-node": "lymph node|lymphknoten|ganglion|axilla|axillary",
    "skin": "haut|peau|piel|pelle|pele|huid|lesion",
    "muscle": "muskel|músculo|muscolo",
    "nerve": "plexus|nerv|nerf|nervio|nervo",
    # Projections and positions
    "anteroposterior": "ap|anteroposterior view|antero posterior",
    "posteroanterior": "pa|postero anterior",
    "lateral": "lat|seitlich|latéral|laterale|profil|perfil|profilo|lateraal|ll",
    "craniocaudal": "cc|cranio caudal",
    "mediolateral-oblique": "mlo|medio lateral oblique",
    "left": "links|lt|gauche|izquierdo|izquierda|izq|sinistra|sinistro|sx|esquerdo|esquerda|li|lcc|"
    "lmlo",
    "right": "rechts|rt|droit|droite|derecho|derecha|destra|destro|dx|direito|direita|re|rcc|rmlo",
    "bilateral": "bds|both|beidseits|bilatéral|bilaterale|beide|bil",
    "upright": "standing|erect|stehend|debout|de pie|staand",
    "supine": "liegend|decubitus|couché|supino|decúbito",
    "prone": "bauchlage|procubitus|prono",
    "portable": "bedside|bettaufnahme|au lit|mobile",
    "inspiration": "insp|inspiratorisch|inspiración|inspirazione|inspiratie",
    "expiration": "exp|expir|exspiration|expiratory|espiración|espirazione|expiratie",
    "breath-hold": "bh|breath hold|breathhold|apnea|apnoe|apnée",
    "free-breathing": "free breathing|fb|navigator|respiratory triggered",
    "gated": "ecg|ekg|triggered|gating|trig|ecg gated",
    "stress": "belastung|effort|estrés|sforzo|regadenoson|adenosine",
    # Tracers
    "fdg": "18f fdg|fluorodeoxyglucose",
    "psma": "ga psma",
    "dotatate": "dotatoc|dota",
    "technetium": "tc99m|99mtc",
    # Purpose
    "trauma": "polytrauma|fracture|fraktur|fractura|frattura|fratura",
    "stroke": "schlaganfall|avc|ictus",
    "tumor": "tumour|tumeur|tumore|mass|oncology|onko|staging",
    "screening": "vorsorge|dépistage|cribado",
    "follow-up": "followup|follow up|verlauf|kontrolle|contrôle|control|controllo|controle",
    "planning": "radiotherapy|bestrahlung|planung|treatment planning|rt planning|simulation",
    "intervention": "interventional|punktion|drainage|stent|pci",
    "phantom": "qa|qc|quality assurance|test phantom|fantom",
    "calibration": "cal|kalibrierung|calib",
}

_WORD = re.compile(r"[A-Za-z0-9+]+")
_PIECE = re.compile(r"[Tt][12][Ww]?(?![0-9])|[234][Dd]|[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")


def _fold(text: str) -> str:
    """Drop accents, keep case."""
    if text.isascii():
        return text
    text = text.replace("ß", "ss").replace("œ", "oe").replace("æ", "ae")
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")


def _spellings(term: str, written: str) -> set[str]:
    found = {term, term.replace("-", " ")}
    for spelling in filter(None, written.split("|")):
        found.add(_fold(spelling).lower())
        # German and Dutch headers without umlauts write them out.
        for plain, umlaut in (("ae", "ä"), ("oe", "ö"), ("ue", "ü")):
            if umlaut in spelling:
                found.add(_fold(spelling.replace(umlaut, plain)).lower())
    return found


_LOOKUP: dict[str, str] = {
    spelling: term for term, written in _TERMS.items() for spelling in _spellings(term, written)
}

TERMS: frozenset[str] = frozenset(_TERMS)
"""Every term that can ever leave the blob."""


def _words(text: str) -> list[str]:
    words: list[str] = []
    for word in _WORD.findall(_fold(without_months(text[:MAX_TEXT_CHARS]))):
        lowered = word.lower()
        if lowered in _LOOKUP:
            words.append(lowered)
        else:
            words.extend(piece.lower() for piece in _PIECE.findall(word))
    return words


def terms(texts: Iterable[str]) -> tuple[str, ...]:
    """Reduce free texts to terms of the vocabulary.

    Parameters
    ----------
    texts : iterable of str
        Descriptions; of each the first 256 characters count.

    Returns
    -------
    tuple of str
        At most 32 terms, in the order in which they were first met, each once.
    """
    found: dict[str, None] = {}
    for text in texts:
        words = _words(text)
        i = 0
        while i < len(words):
            both = _LOOKUP.get(f"{words[i]} {words[i + 1]}") if i + 1 < len(words) else None
            term = both or _LOOKUP.get(words[i])
            if term is not None:
                found[term] = None
            i += 2 if both else 1
    return tuple(found)[:MAX_TERMS]
