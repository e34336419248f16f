"""Write tokenizer/nasty.json: what the real CLIP makes of texts that break tokenizers.

    python tests/golden/make_tokenizer.py        # after pip install -e ".[bench]"

The ids come from open_clip's SimpleTokenizer (OpenAI's code) with OpenAI's names of the special
tokens. So that the tests need neither torch nor the vocabulary, the file also holds those merges that
it used on these texts, with their true ids: byte pairs restricted to them give the same result. And
it says in which texts transformers' CLIPTokenizer, which mends nothing, reads something else; where
there is nothing to mend, it must agree, but for three ODD ones.
"""

import html
import importlib.metadata
import importlib.util
import json
import tempfile
import unicodedata
from pathlib import Path

import ftfy
import regex
import transformers

from minidiff.tokenizer import real_clip_tokenizer

CONTEXT = 12

# transformers lower-cases letter by letter (the last sigma of a word has a shape of its own), takes
# no long s for an s, and finds special tokens before it lower-cases.
ODD = [
    "Ελλάδα ΟΔΟΣ Москва ЁЖИК",
    "'s's 't 'ſ ''s '''re's 'LLama",
    "<|EndOfText|><|startoftext|> <|endoftext |> <|ſtartoftext|>",
]
TEXTS = [
    *ODD,
    "a photo of a cat",
    "A Photo\tof  a\n\nCAT.",
    "",
    " \t\r\n\u00a0\u2003\u3000 ",
    "x",
    # letters: accents composed and not, other scripts, letters whose lower case is odd
    "naïve café Ångström",
    "nai\u0308ve cafe\u0301 A\u030angstro\u0308m",
    "Straße GROẞ ſmall ſ",
    "İstanbul ISPARTA ıŞık",
    "一只戴帽子的猫。猫は帽子をかぶっている、한국어 고양이",
    "قطة ترتدي قبعة ١٢٣ שלום עולם",
    "हिन्दी में बिल्ली ภาษาไทย แมว",
    "\u202eabc\u202c \u200eleft\u200f to right",
    "𝕬𝖇𝖈 Ⓐⓑⓒ ﬁne ｆｕｌｌ ｗｉｄｔｈ",
    # contractions
    "it's I'm they'd we've you're she'll don't can't o'clock 'tis rock'n'roll",
    "IT'S I'M THEY'D WE'VE YOU'RE SHE'LL DON'T",
    "it’s I’m don’t ‘quoted’ “double” it`s it´s itʼs",
    "dogs' cat'sup 'd'm'S",
    # HTML
    "a &amp; b &lt;b&gt; &quot;x&quot; &#39;s &#x1F408;",
    "a &amp;amp; b &amp;lt;b&amp;gt; &amp;amp;amp; &amp;#39;s",
    "<p class='x'>cat</p> &nbsp;&nbsp;dog &copy &notit; &unknown; &#0; &#xD800; &#28;",
    # emoji: joined, with skin colour, flags, keycaps, variation selectors
    "😀 👩‍👩‍👧‍👦 👍🏽 🇩🇪🇫🇷 1️⃣ ❤️ 🏴\U000e0067\U000e0062\U000e007f 🐈‍⬛cat🐈",
    # digits, underscores, signs
    "1234567890 3.14 1,000,000 2x4 x86_64 ½ Ⅷ ² ①",
    "snake_case __init__ a_b_ _",
    "!!! ... ?!?! ---- *** (((x))) a/b\\c @user #tag $5 50% :-) ;) <3 ^_^ ~~",
    "e-mail: someone@example.org, https://example.org/a?b=c&d=e#f",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "aaaaaaaaaaaaaaaaaaaaaaaa ababababababab hahahahaha zzzzz",
    # special tokens and what looks like them
    "a cat<|endoftext|>a dog <|startoftext|>",
    "</w> cat</w> <w> Ġcat ▁cat ##cat <start_of_text> [CLS] <s> <pad>",
    # control characters, invisible ones, lone surrogates, the ends of Unicode
    "a\x00b\x07c\x08d\x1be\x7ff\x85g\x9fh",
    "a\x0bb\x0cc\x1cd\x1de\x1ef\x1fg",
    "\x1b[31mred\x1b[0m",
    "zero\u200bwidth soft\u00adhyphen \ufefforder word\u2060joiner a\u034fb",
    "\ud83d lone \udc31 surrogate \ufffd \ufffe \uffff \U0010ffff \ue000",
    "line\u2028paragraph\u2029end next\u0085line",
    "Z̸̢̛͔̥a̴̮̓l̵̠͗g̷̲̈́o̶̞͝ t̵͇̄e̷͓͝x̶͕̌t̸̰͆",
    # mojibake
    "sÃ³ lo que queda cafÃ© â€œquotedâ€\x9d itâ€™s",
    "ðŸ˜€ Ã¼ber ÐœÐ¾ÑÐºÐ²Ð° l\x92humour",
    "The Mona Lisa doesnÃƒÂ¢Ã¢â€šÂ¬Ã¢â€žÂ¢t have eyebrows.",
    # too long: for 77 tokens, and by one and by none for 12
    "a cat and a dog " * 40,
    "an extraordinarily " * 60 + "long word" + "y" * 300,
    "one two three four five six seven eight nine ten eleven",
    "one two three four five six seven eight nine ten",
]


class Recorder(dict):
    """Ranks of merges that remember which of them were used."""

    def __init__(self, ranks):
        super().__init__(ranks)
        self.used = set()

    def __contains__(self, pair):  # the tokenizer asks this of each merge that it is about to make
        found = super().__contains__(pair)
        self.used |= {pair} if found else set()
        return found


def open_clip_tokenizer():
    """OpenAI's tokenizer, from its file alone: importing open_clip needs torchvision."""
    package = importlib.util.find_spec("open_clip")
    path = Path(package.origin).with_name("tokenizer.py")
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tokenizer = module.SimpleTokenizer()
    pattern = tokenizer.pat.pattern
    for theirs, openai in (
        ("<start_of_text>", "<|startoftext|>"),
        ("<end_of_text>", "<|endoftext|>"),
    ):
        tokenizer.encoder[openai] = tokenizer.encoder.pop(theirs)
        tokenizer.cache[openai] = openai
        assert theirs in pattern
        pattern = pattern.replace(theirs, regex.escape(openai))
    tokenizer.pat = regex.compile(pattern, regex.IGNORECASE)
    tokenizer.bpe_ranks = Recorder(tokenizer.bpe_ranks)
    return tokenizer


def main():
    """Write the file, beside this one."""
    theirs, ours = open_clip_tokenizer(), real_clip_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        ours.save(folder)
        hugging_face = transformers.CLIPTokenizer.from_pretrained(folder)
    assert len(hugging_face) == ours.size == len(theirs.encoder)
    cases = []
    for text in TEXTS:
        ids = theirs.encode(text)
        [row] = theirs(text, CONTEXT).tolist()
        mended = html.unescape(html.unescape(ftfy.fix_text(text)))
        as_is = mended == unicodedata.normalize("NFC", text)
        try:
            same = hugging_face(text)["input_ids"] == [ours.start, *ids, ours.end]
        except (TypeError, UnicodeError):  # it takes no lone surrogates
            same = False
        assert same or not as_is or text in ODD, text
        cases.append({"text": text, "ids": ids, "row": row, "transformers_agrees": same})
    used = sorted(theirs.bpe_ranks.used, key=theirs.bpe_ranks.get)
    tokens = [*list(theirs.encoder)[:512], *map("".join, used), "<|startoftext|>", "<|endoftext|>"]
    golden = {
        "source": "open_clip_torch {}, transformers {}, ftfy {}, regex {}".format(
            *map(importlib.metadata.version, ("open_clip_torch", "transformers", "ftfy", "regex"))
        ),
        "context": CONTEXT,
        "merges": [" ".join(pair) for pair in used],
        "vocabulary": {token: theirs.encoder[token] for token in tokens},
        "cases": cases,
    }
    path = Path(__file__).parent / "tokenizer" / "nasty.json"
    path.parent.mkdir(exist_ok=True)
    cases = ",\n".join(map(json.dumps, golden.pop("cases")))
    rest = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in golden.items())
    path.write_text("{" + rest + ',\n"cases": [\n' + cases + "\n]}\n")
    print(f"{len(TEXTS)} texts, {len(used)} merges: {path}")


if __name__ == "__main__":
    main()
