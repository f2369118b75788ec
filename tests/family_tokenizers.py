"""Small tokenizers of the shapes that language models have, trained on the spot, and chat templates of text models."""

from __future__ import annotations

import json
import string
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "What is in the image? A red square stands left of a blue circle, and two green triangles are above them.",
    "USER: Describe the picture. ASSISTANT: The image shows a small yellow star on a dark background.",
    "system\nYou are a helpful assistant.\nuser\nHow many circles are there?\nassistant\nThere are three circles.",
    "Please look again: the answer is wrong.\n\nYes, there are 12 squares, not 7.\n\nNo, it's grey, isn't it?",
    "system\n\nuser\n\nassistant\n\nsystem\n\nuser\n\nassistant\n\nThere is a red square\n\nuser\n\nassistant\n\n",
]
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Newlines in a row are one piece: two of them may become one token."""
LLAMA3 = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?"
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
MERGES = 160


def train(tokenizer: Tokenizer, specials: list[str], alphabet: list[str]) -> Tokenizer:
    """Train merges on the corpus; `specials` get the first ids."""
    size = len(specials) + len(alphabet) + MERGES
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    lines = (line for text in CORPUS for line in text.splitlines())  # SentencePiece's pieces hold no line break
    tokenizer.train_from_iterator(lines if "<unk>" in specials else CORPUS, trainer)
    state = json.loads(tokenizer.to_str())  # bytes are pieces of the model, not added tokens
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in BYTES]
    return Tokenizer.from_str(json.dumps(state))


def byte_level(pattern: str | None) -> Tokenizer:
    """Byte pairs as GPT-2 has them (`None`, digits apart, as SmolLM does), or after another split, as Qwen, Llama 3,
    GLM (`LLAMA3`) and Mistral's Tekken do.
    """
    tokenizer = Tokenizer(models.BPE())
    if pattern is None:
        first: pre_tokenizers.PreTokenizer = pre_tokenizers.Digits(individual_digits=True)
    else:
        first = pre_tokenizers.Split(Regex(pattern), "isolated")
    if pattern == QWEN:
        tokenizer.normalizer = normalizers.NFC()
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    return train(tokenizer, [], sorted(pre_tokenizers.ByteLevel.alphabet()))


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
"""What SentencePiece falls back to where it has no piece."""
PIECES = sorted({"▁", *string.ascii_letters, *string.digits, *string.punctuation})


def metaspace() -> Tokenizer:
    """As Llama 2, Vicuna, Mistral 7B and Phi-3: `▁` before each run of text, so also behind a special token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    return train(tokenizer, ["<unk>", "<s>", "</s>", *BYTES], PIECES)


def gemma() -> Tokenizer:
    """As Gemma: spaces become `▁`, and nothing comes before a text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return train(tokenizer, ["<pad>", "<eos>", "<bos>", "<unk>", *BYTES], PIECES)


@cache
def trained(kind: str) -> str:
    """The JSON of a tokenizer, trained once per process."""
    patterns = {"gpt2": None, "qwen": QWEN, "llama3": LLAMA3, "tekken": TEKKEN}
    if kind in patterns:
        return byte_level(patterns[kind]).to_str()
    return {"metaspace": metaspace, "gemma": gemma}[kind]().to_str()


def fast_tokenizer(
    kind: str, named: dict[str, str], specials: list[str], *, leading: bool = False, **settings
) -> PreTrainedTokenizerFast:
    """A tokenizer of a family.

    `kind` is gpt2, qwen, llama3, tekken, metaspace or gemma. `named` are its named special tokens (`eos_token`,
    `bos_token`, `image_token`, …), `specials` those without a name. `leading`: it writes the bos token before each
    text unless it is called with `add_special_tokens=False`. `settings` go to the class.
    """
    backend = Tokenizer.from_str(trained(kind))
    tokens = list(dict.fromkeys([*named.values(), *specials]))
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in tokens])
    if leading:
        bos = named["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    if kind == "gemma":  # its line breaks are added tokens, but not special
        backend.add_tokens([AddedToken("\n" * count, normalized=False) for count in (1, 2, 3)])
    own = {name: token for name, token in named.items() if name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    extra = {name: token for name, token in named.items() if name not in own}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **own, extra_special_tokens=extra or None, model_max_length=4096, **settings
    )


TEXT_TEMPLATES = {
    # bos in the text, a header with today's date, contents trimmed
    "llama3": """{{- bos_token }}
{%- if date_string is not defined %}{% set date_string = strftime_now("%d %b %Y") %}{% endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}{% set messages = messages[1:] %}
{%- else %}{% set system = '' %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\n' }}
{{- 'Today Date: ' + date_string + '\\n\\n' + system + '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}""",
    # a system message of its own where none is there
    "qwen2.5": """{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are Qwen, a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}""",
    # an empty block of thoughts before the last answer, none before earlier ones
    "qwen3": """{%- set last = namespace(user=-1) %}
{%- for message in messages %}{% if message.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}
{%- for message in messages %}
    {%- if message.role != 'assistant' %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- else %}
        {%- set content = message.content %}{% set thoughts = '' %}
        {%- if '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > last.user and (loop.last or thoughts) %}
            {{- '<think>\\n' + thoughts + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}{{- content }}{% endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}""",
    # the system message goes into the first question; roles must alternate; answers trimmed
    "mistral": """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] + '\\n\\n' %}{% set messages = messages[1:] %}
{%- else %}{% set system = '' %}{% endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}
    {%- else %}{{- ' ' + message['content'] | trim + eos_token }}{% endif %}
{%- endfor %}""",
    # no system message; the assistant is named model; contents trimmed
    "gemma": """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}{{- raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{% endif %}""",
    "smollm": """{%- for message in messages %}
    {%- if loop.first and messages[0]['role'] != 'system' %}
        {{- '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}""",
    # ends a whole conversation with the eos token, which no answer has
    "phi3": """{%- for message in messages %}
    {{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{% else %}{{- eos_token }}{% endif %}""",
}

CHATML = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
SENTENCEPIECE = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
GEMMA = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
TEXT_TOKENIZERS: dict[str, tuple[str, dict[str, str], list[str], bool]] = {
    "llama3": (
        "llama3",
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<|end_of_text|>"},
        ["<|start_header_id|>", "<|end_header_id|>"],
        True,
    ),
    "qwen2.5": ("qwen", CHATML, ["<|im_start|>"], False),
    "qwen3": ("qwen", CHATML, ["<|im_start|>"], False),
    "mistral": ("metaspace", SENTENCEPIECE, [], True),
    "gemma": ("gemma", GEMMA, ["<start_of_turn>", "<end_of_turn>"], True),
    "smollm": ("gpt2", CHATML | {"bos_token": "<|im_start|>"}, [], False),
    "phi3": ("metaspace", SENTENCEPIECE | {"eos_token": "<|endoftext|>"}, [], False),
}
"""Kind, named special tokens, other special tokens, whether it writes a bos token itself."""
STOPS = {"gemma": "<end_of_turn>", "phi3": "<|end|>"}
"""The token that ends an answer, where the tokenizer's eos token does not."""


@cache
def text_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a text model with its chat template; `name` is a key of `TEXT_TEMPLATES`."""
    kind, named, specials, leading = TEXT_TOKENIZERS[name]
    tokenizer = fast_tokenizer(kind, named, specials, leading=leading, chat_template=TEXT_TEMPLATES[name])
    if name == "qwen3":  # added, but not special
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    if name == "phi3":  # its tokens swallow the whitespace behind them
        marks = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
        tokenizer.add_tokens([AddedToken(mark, rstrip=True, normalized=False, special=True) for mark in marks], True)
    return tokenizer


QWEN_VL = """{%- for message in messages %}
    {%- if loop.first and SYSTEM and message['role'] != 'system' %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['content'] is string %}{{- message['content'] }}
    {%- else %}{%- for part in message['content'] %}
        {%- if part['type'] == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
        {%- elif 'text' in part %}{{- part['text'] }}{% endif %}
    {%- endfor %}{% endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""
IDEFICS = """{{- START }}
{%- for message in messages %}
    {{- message['role'] | capitalize + (':' if message['content'][0]['type'] == 'image' else ': ') }}
    {%- for part in message['content'] %}
        {%- if part['type'] == 'text' %}{{- part['text'] }}
        {%- elif part['type'] == 'image' %}{{- '<image>' }}{% endif %}
    {%- endfor %}
    {{- '<end_of_utterance>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'Assistant:' }}{% endif %}"""
MISTRAL = """{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}{{- '[INST]' }}
    {%- elif message['role'] == 'system' %}{{- '[SYSTEM_PROMPT]' }}{% endif %}
    {%- if message['content'] is string %}{{- message['content'] }}
    {%- else %}{%- for part in message['content'] %}
        {%- if part['type'] == 'image' %}{{- '[IMG]' }}
        {%- else %}{{- part['text'] }}{% endif %}
    {%- endfor %}{% endif %}
    {%- if message['role'] == 'user' %}{{- '[/INST]' }}
    {%- elif message['role'] == 'system' %}{{- '[/SYSTEM_PROMPT]' }}
    {%- else %}{{- eos_token }}{% endif %}
{%- endfor %}"""
GEMMA_VL = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set first = messages[0]['content'] if messages[0]['content'] is string else messages[0]['content'][0]['text'] %}
    {%- set first = first + '\\n\\n' %}{% set messages = messages[1:] %}
{%- else %}{% set first = '' %}{% endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {{- OPEN + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}
    {{- first if loop.first else '' }}
    {%- if message['content'] is string %}{{- message['content'] | trim }}
    {%- else %}{%- for part in message['content'] %}
        {%- if part['type'] == 'image' %}{{- IMAGE }}
        {%- else %}{{- part['text'] | trim }}{% endif %}
    {%- endfor %}{% endif %}
    {{- CLOSE + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- OPEN + 'model\\n' }}{% endif %}"""
TEMPLATES = {
    # images first, each with a line break; a space after each text; no stop token; an answer is marked
    "llava": """{%- for message in messages %}
    {%- if message['role'] != 'system' %}{{- message['role'].upper() + ': ' }}{% endif %}
    {%- for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{- '<image>\\n' }}{% endfor %}
    {%- for part in message['content'] | selectattr('type', 'equalto', 'text') %}
        {%- if message['role'] == 'assistant' %}{% generation %}{{- part['text'] + ' ' }}{% endgeneration %}
        {%- else %}{{- part['text'] + ' ' }}{% endif %}
    {%- endfor %}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'ASSISTANT:' }}{% endif %}""",
    "llava_next": """{%- for message in messages %}
    {%- if message['role'] == 'user' %}{{- '[INST] ' }}{% endif %}
    {%- for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{- '<image>\\n' }}{% endfor %}
    {%- for part in message['content'] | selectattr('type', 'equalto', 'text') %}
        {%- if message['role'] == 'assistant' %}{{- ' ' + part['text'] + '</s>' }}
        {%- else %}{{- part['text'] }}{% endif %}
    {%- endfor %}
    {%- if message['role'] == 'user' %}{{- ' [/INST]' }}{% endif %}
{%- endfor %}""",
    # two line breaks before an answer, of which the prompt has one; the mark holds no stop token
    "llava_onevision": """{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{- '<image>' }}{% endfor %}
    {%- for part in message['content'] | selectattr('type', 'equalto', 'text') %}
        {%- if message['role'] == 'assistant' %}{% generation %}{{- '\\n' + part['text'] }}{% endgeneration %}
        {%- else %}{{- '\\n' + part['text'] }}{% endif %}
    {%- endfor %}
    {{- '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}""",
    "smolvlm": IDEFICS.replace("START", "'<|im_start|>'"),
    "idefics3": IDEFICS.replace("START", "'<|begin_of_text|>'"),
    "internvl": """{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['content'] is string %}{{- message['content'] }}
    {%- else %}{%- for part in message['content'] %}
        {%- if part['type'] == 'image' %}{{- '<IMG_CONTEXT>\\n' }}
        {%- elif part['type'] == 'text' %}{{- part['text'] }}{% endif %}
    {%- endfor %}{% endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}""",
    "mistral3": MISTRAL,
    "pixtral": MISTRAL,
    "qwen2_vl": QWEN_VL.replace("SYSTEM", "true"),
    "qwen2_5_vl": QWEN_VL.replace("SYSTEM", "true"),
    "qwen3_vl": QWEN_VL.replace("SYSTEM", "false"),
    # no stop token of its own: an answer ends where the next `<|user|>` begins
    "glm4v": """{{- '[gMASK]<sop>' }}
{%- for message in messages %}
    {{- '<|' + message['role'] + '|>\\n' }}
    {%- if message['content'] is string %}{{- message['content'] }}
    {%- else %}{%- for part in message['content'] %}
        {%- if part['type'] == 'image' %}{{- '<|begin_of_image|><|image|><|end_of_image|>' }}
        {%- elif part['type'] == 'text' %}{{- part['text'] }}{% endif %}
    {%- endfor %}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{% endif %}""",
    "gemma3": GEMMA_VL.replace("OPEN", "'<start_of_turn>'")
    .replace("CLOSE", "'<end_of_turn>'")
    .replace("IMAGE", "'<start_of_image>'"),
    "gemma4": GEMMA_VL.replace("OPEN", "'<|turn>'").replace("CLOSE", "'<turn|>'").replace("IMAGE", "'<|image|>'"),
}
"""Of the vision-language families, in the shapes of the real ones; they hold one placeholder per image."""
