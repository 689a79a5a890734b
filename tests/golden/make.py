"""Makes the golden files: tiny random models by transformers, and what they compute, in f32 on one CPU thread.

    python tests/golden/make.py          # torch 2.9.1, transformers 5.23.0 wrote the files that are checked in

llama/, qwen2/          the model as `save_pretrained` writes it, in shards, with a stand-in tokenizer.json
*/expected.safetensors
    tokens, lengths     packed sequences; each is run by itself
    targets             what each row is to predict; -1 counts for nothing
    logits              of every row
    grad.NAME           of the mean loss over the targets that count
    losses              means of ten AdamW steps on ten batches (steps.tokens, steps.targets; the same lengths)
"""
import json
import pathlib

import torch
import transformers
from safetensors.torch import save_file

SEED = 20
LENGTHS = [9, 1, 14]
STEPS = 10
ADAMW = dict(lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
WEIGHT_DECAY = 0.1
CLIP = 1.0

SHAPE = dict(
    vocab_size=53, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=64, rms_norm_eps=1e-5, initializer_range=0.3,
    rope_parameters={"rope_theta": 500.0, "rope_type": "default"}, attn_implementation="eager",
    bos_token_id=0, eos_token_id=1)


def make(name, config, architecture):
    torch.manual_seed(SEED)
    model = architecture(config).float()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "norm" in parameter_name:
                parameter.uniform_(0.5, 1.5)
            if "bias" in parameter_name:
                parameter.uniform_(-1.0, 1.0)
    out = pathlib.Path(__file__).parent / name
    model.save_pretrained(out, max_shard_size="30KB")
    (out / "generation_config.json").unlink(missing_ok=True)
    (out / "tokenizer.json").write_text(json.dumps({"version": "1.0", "stand_in": True}) + "\n")
    metadata = {"seed": str(SEED), "torch": torch.__version__, "transformers": transformers.__version__}
    tensors = {name: tensor.contiguous() for name, tensor in expected_of(model).items()}
    save_file(tensors, out / "expected.safetensors", metadata)


def expected_of(model):
    rows = sum(LENGTHS)

    def draw():
        tokens = torch.randint(0, model.config.vocab_size, (rows,))
        targets = torch.randint(0, model.config.vocab_size, (rows,))
        targets[torch.randint(0, rows, (3,))] = -1
        return tokens, targets

    def run(tokens):
        return torch.cat([model(part[None]).logits[0] for part in tokens.split(LENGTHS)])

    def loss(logits, targets):
        return torch.nn.functional.cross_entropy(logits, targets, ignore_index=-1)

    tokens, targets = draw()
    logits = run(tokens)
    loss(logits, targets).backward()
    expected = {
        "tokens": tokens, "lengths": torch.tensor(LENGTHS), "targets": targets, "logits": logits.detach(),
        **{"grad." + name: parameter.grad.clone() for name, parameter in model.named_parameters()},
    }

    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}], **ADAMW)
    losses, batches = [], [draw() for _ in range(STEPS)]
    for tokens, targets in batches:
        optimizer.zero_grad()
        step_loss = loss(run(tokens), targets)
        step_loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(step_loss.item())
    expected |= {
        "steps.tokens": torch.stack([tokens for tokens, _ in batches]),
        "steps.targets": torch.stack([targets for _, targets in batches]),
        "losses": torch.tensor(losses, dtype=torch.float64),
    }
    return expected


torch.set_num_threads(1)
make("llama", transformers.LlamaConfig(hidden_size=24, head_dim=8, **SHAPE), transformers.LlamaForCausalLM)
make("qwen2", transformers.Qwen2Config(hidden_size=32, tie_word_embeddings=True, **SHAPE), transformers.Qwen2ForCausalLM)
