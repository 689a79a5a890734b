"""Makes tokenizer.json beside this file: what Hugging Face's libraries train and encode, for tests to compare with.

    python tokenizer.py PATH/TO/udhr.jsonl.gz        (Universal Declaration of Human Rights, public domain)

Made with tokenizers 0.22 and transformers; the versions stand in the file. Nothing is random. The word pattern is
that of src/text/train.rs, here run by another regular expression engine (Oniguruma).
"""

import gzip, json, sys

import tokenizers, transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

WORDS = (
    r"'(?i:[sdmt]|ll|ve|re)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
SPECIAL = ["<|bos|>", "<|eos|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
VOCAB = 900
LANGUAGES = ["eng", "deu_1996", "fra", "rus", "jpn", "arb", "tha"]

CASES = [
    "", " ", "  ", "\n", "\r\n", "\t\t x", "a", "The right to life.", "it's we'll they've I'M", "abc123456def", "3.14159 §§ 12(3)",
    "  leading", "trailing  ", "a   b\n\n\n  c\r\n\r\nd", "don't stop\u2019s", "naïve café e\u0301", "Größe: 5 € – ähnlich",
    "日本語のテキスト、句読点。", "हिन्दी में पाठ", "العربية نص", "ภาษาไทย", "\U0001F600\U0001F468\u200D\U0001F469\u200D\U0001F467 emoji", "\u0000\u0001\u007f",
    "\ufeffBOM \ufffd", "x" * 200, "é" * 150, "!" * 150, " " * 150, "\n" * 150, "1" * 100, "<|eos|> is text", "<|bos|><|user|>", "a\u00a0b\u3000c",
    "mixed\u0085line\u2028sep", "ﬁ ligature Ⅷ ½", "\u1100\u1161\u11a8 한국어", "url https://a.b/c?d=e&f=g#h", "__init__(self, *args): # {x: [1]}\n\treturn",
]

TEMPLATES = {
    # That of src/text/template.rs.
    "cloister": (
        "{{ bos_token }}"
        "{% for message in messages %}"
        "{% if message.role not in ['system', 'user', 'assistant'] %}"
        "{{ raise_exception('a message has the role ' ~ message.role ~ ', not system, user or assistant') }}"
        "{% endif %}"
        "{{ '<|' ~ message.role ~ '|>' ~ message.content ~ '<|end|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    ),
    # In the manner of those that published models carry: tags on lines of their own, methods, a namespace.
    "published": """{%- set ns = namespace(system='') %}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {%- set ns.system = message['content'].strip() %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- if ns.system %}
{{- '<|system|>' + ns.system + '<|end|>\n' }}
{%- endif %}
{% for message in messages if message['role'] != 'system' %}
    {% if loop.first and message.role == 'assistant' %}{{ raise_exception('user first') }}{% endif %}
{{ '<|' + message['role'] + '|>' + message['content'] | trim }}<|end|>
    {%- if not loop.last %}

{% endif %}
{% endfor %}
{% if add_generation_prompt %}
<|assistant|>
{%- endif %}
""",
}
CHATS = [
    [{"role": "user", "content": "What is a licence?"}],
    [{"role": "system", "content": "  Be brief.\n"}, {"role": "user", "content": " Hello \n"}, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Grüße <b>"}],
]


def main():
    rows = [json.loads(line) for line in gzip.open(sys.argv[1])]
    by_id = {row["id"]: row["text"] for row in rows}
    texts = [by_id[language][:6000] for language in LANGUAGES if language in by_id]
    assert len(texts) >= 4, sorted(by_id)[:50]

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL,
    )
    tokenizer.train_from_iterator(texts, trainer)
    saved = json.loads(tokenizer.to_str())

    # As users load it; text that spells a special token stays text, as it does in cloister.
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(saved)))
    encode = lambda text: fast.encode(text, add_special_tokens=False, split_special_tokens=True)
    for text in CASES:
        assert fast.decode(encode(text), clean_up_tokenization_spaces=False) == text, repr(text)
    fast.bos_token, fast.eos_token = "<|bos|>", "<|eos|>"
    chats = []
    for name, template in TEMPLATES.items():
        for messages in CHATS:
            for prompt in (False, True):
                fast.chat_template = template
                chat = dict(tokenize=False, add_generation_prompt=prompt)
                text = fast.apply_chat_template(messages, **chat)
                ids = fast.encode(text, add_special_tokens=False)
                chats.append([name, messages, prompt, text, ids])
    golden = {
        "made_by": f"tokenizers {tokenizers.__version__}, transformers {transformers.__version__}",
        "texts": texts,
        "tokenizer": saved,
        "templates": TEMPLATES,
        "chats": chats,
        "cases": [[text, encode(text)] for text in CASES],
    }
    with open("tokenizer.json", "w") as out:
        json.dump(golden, out, ensure_ascii=False, indent=None, separators=(",", ":"))
        out.write("\n")
    print(golden["made_by"], len(texts), "texts", len(saved["model"]["vocab"]), "tokens", len(CASES), "cases")


if __name__ == "__main__":
    main()
