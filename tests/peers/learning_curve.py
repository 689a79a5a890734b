"""The PyTorch side of docs/learning-curve.svg: the same model, initial weights, data order and schedule.

    CLOISTER_CURVE_TEXT=input.txt CLOISTER_CURVE_DIR=/tmp/curve \\
        cargo test --release --test tests -- --ignored learning_curve                    # our side, and torch's inputs
    python tests/peers/learning_curve.py /tmp/curve                                      # torch's side
    python tests/peers/learning_curve.py /tmp/curve --picture docs/learning-curve.svg    # both curves

It reads what our side exported: run.json (model config in Hugging Face's names, learning rate of every step,
optimizer numbers), init.safetensors (initial weights in Hugging Face's names) and rows.bin / heldout.bin
(little-endian u32: inputs, targets, and the place of each input within its document's piece). It is run by hand,
not in CI, and goes on from where it was stopped; it needs torch, transformers, safetensors and, for the picture,
matplotlib. Made with torch 2.9.1, transformers 5.23.0 and matplotlib 3.11.2.
"""
import argparse, json, pathlib, time


def read_rows(path, context):
    import numpy, torch
    rows = numpy.fromfile(path, dtype="<u4").astype("int64").reshape(-1, 3, context)
    return tuple(torch.from_numpy(rows[:, part].copy()) for part in range(3))


def loss_sum(model, inputs, targets, positions):
    """Nats summed over [B, T]; attention stays within a piece, which begins where its position is 0."""
    import torch
    mask = None
    if (positions[:, 1:] == 0).any():
        piece = (positions == 0).cumsum(-1)
        same = piece[:, :, None] == piece[:, None, :]
        mask = (same & torch.ones_like(same[0]).tril())[:, None]
    logits = model(input_ids=inputs, position_ids=positions, attention_mask=mask, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum",
                                             ignore_index=2**32 - 1)


def train(directory, threads, device, steps_wanted):
    import torch, transformers
    from safetensors.torch import load_file
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    run = json.loads((directory / "run.json").read_text())
    context, rows_per_step = run["context"], run["rows_per_step"]
    config = transformers.LlamaConfig(**run["config"], attn_implementation="sdpa")
    model = transformers.LlamaForCausalLM(config)
    missing = model.load_state_dict(load_file(directory / "init.safetensors"), strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"lm_head.weight"}, missing
    model.tie_weights()
    model.to(device)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": run["weight_decay"]},
                                   {"params": others, "weight_decay": 0.0}],
                                  lr=0.0, betas=(run["beta1"], run["beta2"]), eps=run["epsilon"])
    inputs, targets, positions = (part.to(device) for part in read_rows(directory / "rows.bin", context))
    heldout = [part.to(device) for part in read_rows(directory / "heldout.bin", context)]
    sample = run["heldout_sample"]

    def evaluate(rows):
        with torch.no_grad():
            total = sum(loss_sum(model, *(part[some] for part in heldout)).item()
                        for some in (rows[i:i + 16] for i in range(0, len(rows), 16)))
        return total / sum((heldout[1][rows] != 2**32 - 1).sum(-1)).item()

    curve, losses, first, before = [], [], 0, 0.0
    saved = directory / "torch.pt"
    if saved.exists():
        state = torch.load(saved)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        curve, first, before = state["curve"], state["step"], state["elapsed_s"]
    began = time.time() - before
    steps = min(len(run["learning_rates"]), steps_wanted or 10**9)
    for step in range(first, steps):
        rows = slice(step * rows_per_step, (step + 1) * rows_per_step)
        for group in optimizer.param_groups:
            group["lr"] = run["learning_rates"][step]
        loss = loss_sum(model, inputs[rows], targets[rows], positions[rows]) / (rows_per_step * context)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), run["clip"])
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % run["evaluate_every"] == 0 or step + 1 == steps:
            point = {"step": step + 1, "loss": sum(losses) / len(losses), "heldout_loss": evaluate(sample)}
            losses = []
            curve.append(point)
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "curve": curve,
                        "step": step + 1, "elapsed_s": time.time() - began}, saved)
            print(point, f"{(step + 1) * rows_per_step * context / (time.time() - began):.0f} tok/s", flush=True)
            result = {"curve": curve, "torch": torch.__version__, "transformers": transformers.__version__,
                      "threads": threads, "device": device, "elapsed_s": time.time() - began}
            (directory / "torch.json").write_text(json.dumps(result))
    result["heldout_loss"] = evaluate(list(range(len(heldout[0]))))
    (directory / "torch.json").write_text(json.dumps(result))
    print("held-out loss over every document:", result["heldout_loss"])


def picture(directory, path, others):
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "cloister", "font.size": 9, "svg.fonttype": "none"})
    import matplotlib.pyplot as plot
    run, ours, torch = (json.loads((directory / f"{name}.json").read_text()) for name in ("run", "ours", "torch"))
    last = min(ours["curve"][-1]["step"], torch["curve"][-1]["step"])
    for side in (ours, torch):
        side["curve"] = [point for point in side["curve"] if point["step"] <= last]
        # Over every held-out document where both sides have come to the end, else over the sample.
        side["last"] = side["curve"][-1]["heldout_loss"]
    measured = "sample"
    if "heldout_loss" in ours and "heldout_loss" in torch:
        ours["last"], torch["last"], measured = ours["heldout_loss"], torch["heldout_loss"], "all"
    figure, axes = plot.subplots(figsize=(7, 4))
    sides = [("Cloister", ours, "C0", "-"), (f"PyTorch {torch['torch'].split('+')[0]}", torch, "C1", "--")]
    for name, side, colour, line in sides:
        steps = [point["step"] for point in side["curve"]]
        axes.plot(steps, [point["loss"] for point in side["curve"]], line, color=colour, alpha=0.45,
                  label=f"{name}, training")
        axes.plot(steps, [point["heldout_loss"] for point in side["curve"]], line, color=colour, marker=".",
                  label=f"{name}, held-out (step {last}: {side['last']:.4f})")
    for place, (name, other) in enumerate(others):
        axes.plot([point["step"] for point in other["curve"]], [point["heldout_loss"] for point in other["curve"]],
                  ":", color=f"C{2 + place}", label=f"{name}, held-out (step {last}: {other['heldout_loss']:.4f})")
    off = abs(ours["last"] / torch["last"] - 1)
    axes.set(xlabel=f"step of {run['rows_per_step'] * run['context']} tokens", ylabel="nats per token",
             title=f"tinyshakespeare, {run['parameters'] / 1e6:.1f}M parameters, step {last} of "
                   f"{len(run['learning_rates'])}: held-out losses {off:.3%} apart")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    print(f"after step {last}, held-out ({measured}): ours {ours['last']:.5f}, torch {torch['last']:.5f}, {off:.3%} apart")
    for mine, theirs in zip(ours["curve"], torch["curve"]):
        assert mine["step"] == theirs["step"], "both sides measure after the same steps"
        print(mine["step"], *(f"{name} {mine[name]:.5f} {theirs[name]:.5f}" for name in ("loss", "heldout_loss")))


arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("directory", type=pathlib.Path)
arguments.add_argument("--threads", type=int, default=2)
arguments.add_argument("--device", default="cpu", help="where PyTorch computes, cuda for example")
arguments.add_argument("--steps", type=int, help="stop after so many")
arguments.add_argument("--picture", type=pathlib.Path)
arguments.add_argument("--beside", nargs=2, action="append", default=[], metavar=("NAME", "OURS.json"),
                       help="another run of ours in the picture, on a card for example")
given = arguments.parse_args()
if given.picture:
    picture(given.directory, given.picture, [(name, json.loads(pathlib.Path(path).read_text())) for name, path in given.beside])
else:
    train(given.directory, given.threads, given.device, given.steps)
