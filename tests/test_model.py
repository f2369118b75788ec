"""The model: patch tokens, generation, checkpoints, and what is refused."""

from __future__ import annotations

import pytest
import torch
from conftest import LAYOUT, composed, embedded, picture, small_model
from safetensors.torch import load_file

from dress import config
from dress.dialogue.batch import Example, collate
from dress.dialogue.image import Picture
from dress.dialogue.spans import Span, SupervisedDialogue
from dress.dialogue.tree import build_tree
from dress.model.checkpoint import load_model, load_weights, save_model
from dress.model.generation import generate
from dress.model.language import build_language
from dress.model.sampling import SamplingParams
from dress.model.session import Prompt
from dress.model.vision import VisionEncoder

ASK = (Span("user", "Describe the picture."),)


def pixels(n: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 48, 48, generator=generator) for _ in range(n)]


def pictures(n: int) -> list[Picture]:
    return [picture(each) for each in pixels(n)]


def test_patch_tokens_come_before_pooling_and_the_layer_can_be_chosen():
    vit = config.ViT(image_size=48, patch_size=16, width=32, layers=3, heads=2)
    last, first = (VisionEncoder(config.Vision(vit=vit, layer=layer)) for layer in (-1, 0))
    assert (last.num_tokens, last.width) == (9, 32)
    first.load_state_dict(last.state_dict())
    x = torch.stack(pixels(2))
    assert last(x).shape == (2, 9, 32)
    assert not torch.allclose(last(x), first(x))
    used = {n for n, p in first.named_parameters() if p.requires_grad}
    assert not any("resblocks.1" in n or "resblocks.2" in n or "ln_post" in n for n in used)


def test_an_openclip_model_by_name_is_only_another_config_value():
    encoder = VisionEncoder(config.Vision(name="ViT-B-32", weights=None, layer=-2))
    assert (encoder.num_tokens, encoder.width) == (49, 768)


def test_an_unknown_openclip_name_is_named():
    with pytest.raises(ValueError, match=r"model\.vision\.name=ViT-Z-1"):
        VisionEncoder(config.Vision(name="ViT-Z-1"))


def test_greedy_generation_equals_going_token_by_token_without_a_cache(tokenizer):
    model = small_model(tokenizer, initializer_range=0.2).eval()
    images = pictures(3)
    prompts = [Prompt(ASK, 0), Prompt((Span("user", "How many shapes are there?"),), 2), Prompt(ASK, 1)]
    answers = generate(model, prompts, images, SamplingParams(8), batch_size=3)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids, out = model.encoder.prompt(prompt.spans, LAYOUT).ids.tolist(), []
        for _ in range(8):
            with torch.no_grad():
                hidden = model.language.base_model(
                    inputs_embeds=embedded(model, ids + out, images[prompt.image])
                ).last_hidden_state
                out.append(int(model.language.get_output_embeddings()(hidden[0, -1]).argmax()))
            if out[-1] == model.encoder.stop_id:
                break
        assert answer == model.encoder.decode(out)


def test_each_image_is_encoded_once(tokenizer, monkeypatch):
    model = small_model(tokenizer)
    seen = []
    forward = model.vision.forward
    monkeypatch.setattr(model.vision, "forward", lambda x: seen.append(len(x)) or forward(x))
    generate(model, [Prompt(ASK, i % 2) for i in range(8)], pictures(2), SamplingParams(2), batch_size=4)
    assert sum(seen) == 2


def test_sampling_depends_on_the_seed_only(tokenizer):
    model = small_model(tokenizer)
    prompts = [Prompt(ASK, i) for i in range(4)]
    one, two, other = (
        generate(model, prompts, pictures(4), SamplingParams(6, 1.0, seed=seed), batch_size=2) for seed in (1, 1, 2)
    )
    assert one == two != other


def test_generation_stops_at_the_end_token(tokenizer):
    model = small_model(tokenizer, tie_word_embeddings=False)
    with torch.no_grad():
        model.language.get_output_embeddings().weight.zero_()
    head = model.language.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.weight.shape[0]))
    head.bias.data[model.encoder.stop_id] = 9.0
    assert generate(model, [Prompt(ASK, 0)], pictures(1), SamplingParams(5), batch_size=1) == [""]


def test_a_text_only_prompt_needs_no_image(tokenizer):
    model = small_model(tokenizer)
    answers = generate(model, [Prompt(ASK, None), Prompt(ASK, 0)], pictures(1), SamplingParams(3), batch_size=2)
    assert len(answers) == 2


@pytest.mark.parametrize("trainable", [["projector"], ["vision", "projector"]])
def test_a_named_encoder_is_saved_where_a_stage_trains_it(tokenizer, tmp_path, trainable):
    vit = config.ViT(image_size=48, patch_size=16, width=32, layers=2, heads=2)
    settings = config.ComposedModel(
        vision=config.Vision(vit=vit, weights="a_tag"), language=config.Language(config={"model_type": "llama"})
    )
    facts = {"config": {"curriculum": {"stages": {"align": {"trainable": trainable}, "eval": {}}}}}
    model, other = small_model(tokenizer), small_model(tokenizer)
    if "vision" in trainable:
        for parameter in model.vision.parameters():
            parameter.data += 1
    save_model(model, settings, tmp_path, facts)
    load_weights(other, settings, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    written = load_file(tmp_path / "model.safetensors")
    assert any(name.startswith("vision.") for name in written) == ("vision" in trainable)


def test_a_model_comes_back_as_it_was(tokenizer, tmp_path):
    settings = config.ComposedModel(
        vision=config.Vision(vit=config.ViT(image_size=48, patch_size=16, width=32, layers=2, heads=2)),
        language=config.Language(
            config={
                "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
            }
        ),
    )  # fmt: skip
    model = small_model(tokenizer)
    save_model(model, settings, tmp_path, {"stage": "sft"})
    copy, facts = load_model(tmp_path)
    assert facts["stage"] == "sft"
    for (name, a), (_, b) in zip(model.state_dict().items(), copy.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    damaged = tmp_path / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_model(tmp_path)


def test_weights_of_another_model_are_named(tokenizer, tmp_path):
    from dress.model.checkpoint import load_weights

    settings = composed().model
    model = small_model(tokenizer)
    save_model(model, settings, tmp_path, {})
    with pytest.raises(ValueError, match="a checkpoint of another model"):
        load_weights(small_model(tokenizer, hidden_size=64), settings, tmp_path)


SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64}
REFUSED = {
    "mixture-of-experts": {"model_type": "mixtral", **SIZES, "num_key_value_heads": 2, "num_local_experts": 2},
    "dropout": {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 64},
    "linear attention": {
        "model_type": "qwen3_next", **SIZES, "num_key_value_heads": 2, "layer_types": ["linear_attention"] * 2,
        "linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    },
    "scaled logits": {"model_type": "granite", **SIZES, "num_key_value_heads": 2, "logits_scaling": 2.0,
                      "pad_token_id": 0},
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_sharing_cannot_represent_is_refused_by_name(what):
    with pytest.raises(ValueError, match=f"token trees do not represent .*{what}"):
        build_language(config.Language(config=REFUSED[what]), None)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_families_train_through_the_tree(tokenizer, family):
    gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    model = small_model(tokenizer, **({"model_type": family} | (gpt2 if family == "gpt2" else {})))
    dialogue = SupervisedDialogue("sft", (*ASK, Span("assistant", "There is a cross.", 1.0)))
    step = collate([Example([build_tree([model.encoder.supervised(dialogue, "", LAYOUT)])], pictures(1)[0])], 1000)
    model(step.forests[0], step.forests[0].weight / step.forests[0].weight.sum())[0].backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if p.requires_grad and "projector" in n)


def test_trainable_parts_are_what_was_asked_for(tokenizer):
    model = small_model(tokenizer)
    model.set_trainable(["projector"])
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {"projector"}
    table = {part: (total, trainable) for part, total, trainable in model.parameter_table()}
    assert table["vision"][1] == table["language"][1] == 0 < table["projector"][1] == table["projector"][0]


class Wider(torch.nn.Linear):
    """One number too many for each token."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out + 1)


def test_a_projector_of_another_width_or_number_of_tokens_is_named(tokenizer):
    model = small_model(tokenizer)
    features = model.vision(torch.stack(pixels(2)))
    right = model.projector
    fewer = torch.nn.Sequential(right, torch.nn.Unflatten(1, (3, 3)), torch.nn.Flatten(2, 3))
    for wrong in (Wider(features.shape[-1], 32), fewer):
        model.projector = wrong
        with pytest.raises(ValueError, match=r"model\.projector: expected \[2, \d+, 32\].* of features .*, got \["):
            model.project(features)
    model.projector = right
    assert model.project(features).shape == (2, features.shape[1], 32)
