"""Languages as media files name them. Pure."""

#: ISO 639-1 -> the codes of ISO 639-2 for the same language, of which some have two.
_CODES = {
    "ar": ("ara",),
    "bg": ("bul",),
    "cs": ("ces", "cze"),
    "da": ("dan",),
    "de": ("deu", "ger"),
    "el": ("ell", "gre"),
    "en": ("eng",),
    "es": ("spa",),
    "et": ("est",),
    "eu": ("eus", "baq"),
    "fa": ("fas", "per"),
    "fi": ("fin",),
    "fr": ("fra", "fre"),
    "ga": ("gle",),
    "he": ("heb",),
    "hi": ("hin",),
    "hr": ("hrv",),
    "hu": ("hun",),
    "id": ("ind",),
    "is": ("isl", "ice"),
    "it": ("ita",),
    "ja": ("jpn",),
    "ko": ("kor",),
    "lt": ("lit",),
    "lv": ("lav",),
    "mk": ("mkd", "mac"),
    "ms": ("msa", "may"),
    "nl": ("nld", "dut"),
    "no": ("nor", "nob", "nno"),
    "pl": ("pol",),
    "pt": ("por",),
    "ro": ("ron", "rum"),
    "ru": ("rus",),
    "sk": ("slk", "slo"),
    "sl": ("slv",),
    "sq": ("sqi", "alb"),
    "sr": ("srp",),
    "sv": ("swe",),
    "th": ("tha",),
    "tr": ("tur",),
    "uk": ("ukr",),
    "vi": ("vie",),
    "zh": ("zho", "chi", "cmn"),
}
_SHORT = {code: short for short, codes in _CODES.items() for code in codes}


def same_language(first: str, second: str) -> bool:
    """Whether two tags name one language, in ISO 639-1 or 639-2, with or without a region: ``de-AT``, ``deu``, ``ger``.

    Languages without a short code here are compared letter by letter.
    """
    return _primary(first) == _primary(second)


def _primary(tag: str) -> str:
    primary = tag.strip().lower().replace("_", "-").partition("-")[0]
    return _SHORT.get(primary, primary)
