#!/usr/bin/env python3
"""Compares a tiny Llama with LoRA adapters against Hugging Face transformers and peft.

    hf_check.py BENCH FOLDER

Makes a model of two layers with grouped queries and random weights, adapters of several ranks on all seven
projections, and a schedule of steps that mixes chunks of prompts and decodes; writes them to FOLDER; runs
`BENCH hf FOLDER`, which computes them with this crate's kernels; and compares the logits after every part of every
step. Logits must be as close to a float32 run of the same bf16 weights as Hugging Face's own bf16 run is, within a
factor of 1.5. Exits with 1 if any is not. Then the same for a model of one layer.
"""
import json
import os
import random
import subprocess
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

NAMES = ["q", "k", "v", "o", "gate", "up", "down"]
RANKS = [(8, 16), (16, 16), (5, 10), (64, 32)]  # rank, alpha


def module(layer, name):
    part = layer.self_attn if name in "qkvo" else layer.mlp
    return getattr(part, name + "_proj")


def write(folder, name, tensor):
    tensor.detach().to(torch.bfloat16).contiguous().view(torch.int16).cpu().numpy().tofile(os.path.join(folder, name))


def schedule(lengths):
    done, steps = [0] * len(lengths), []
    while any(d < n for d, n in zip(done, lengths)):
        step = []
        for s, n in enumerate(lengths):
            left = n - done[s]
            count = min(left - 5, 11 + 7 * s) if left > 5 else min(left, 1)
            if count > 0:
                step.append([s, done[s], count])
                done[s] += count
        steps.append(step)
    return steps


def check(bench, folder, layers, device):
    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(random.SystemRandom().randrange(1 << 30))
    scaling = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=8192)
    config = LlamaConfig(vocab_size=512, hidden_size=256, intermediate_size=384, num_hidden_layers=layers,
                         num_attention_heads=4, num_key_value_heads=2, head_dim=64, rms_norm_eps=1e-5,
                         max_position_embeddings=131072, tie_word_embeddings=False)
    # Newer versions keep both in one dictionary.
    config.rope_theta = 500000.0
    config.rope_scaling = dict(scaling, rope_theta=500000.0)
    if hasattr(config, "rope_parameters"):
        config.rope_parameters = dict(scaling, rope_theta=500000.0)
    model = LlamaForCausalLM(config)
    base = model
    for index, (rank, alpha) in enumerate(RANKS):
        lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules=[n + "_proj" for n in NAMES], lora_dropout=0.0,
                          init_lora_weights=False)
        if index == 0:
            model = get_peft_model(base, lora, adapter_name="a0")
        else:
            model.add_adapter(f"a{index}", lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.8, 1.2)
            elif "lora_B" in name:
                parameter.uniform_(-0.15, 0.15)
            elif "embed" in name:
                parameter.uniform_(-1.7, 1.7)
            else:
                bound = (3.0 / parameter.shape[-1]) ** 0.5
                parameter.uniform_(-bound, bound)
            parameter.copy_(parameter.to(torch.bfloat16).to(torch.float32))
    model = model.eval().to(device)
    inner = base.model
    write(folder, "embedding", inner.embed_tokens.weight)
    write(folder, "final_norm", inner.norm.weight)
    write(folder, "lm_head", base.lm_head.weight)
    for number, layer in enumerate(inner.layers):
        write(folder, f"attention_norm.{number}", layer.input_layernorm.weight)
        write(folder, f"mlp_norm.{number}", layer.post_attention_layernorm.weight)
        for name in NAMES:
            linear = module(layer, name)
            write(folder, f"{name}.{number}", linear.base_layer.weight)
            for index in range(len(RANKS)):
                write(folder, f"adapter{index}.{name}.{number}.a", linear.lora_A[f"a{index}"].weight.T)
                write(folder, f"adapter{index}.{name}.{number}.b", linear.lora_B[f"a{index}"].weight.T)
    generator = random.Random()
    owners = [0, 1, None, 2, 3, 1]
    lengths = [41, 8, 60, 25, 90, 17]
    sequences = [dict(tokens=[generator.randrange(512) for _ in range(n)], adapter=a) for n, a in zip(lengths, owners)]
    steps = schedule(lengths)
    shape = dict(layers=layers, hidden=256, heads=4, kv_heads=2, head_dim=64, intermediate=384, vocab=512,
                 rope_theta=500000.0, factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0,
                 original_context=8192, rms_epsilon=1e-5)
    adapters = [dict(rank=rank, scale=alpha / rank) for rank, alpha in RANKS]
    with open(os.path.join(folder, "case.json"), "w") as file:
        json.dump(dict(shape=shape, adapters=adapters, sequences=sequences, steps=steps), file)

    def logits():
        out = []
        for sequence in sequences:
            tokens = torch.tensor([sequence["tokens"]], device=device)
            with torch.no_grad():
                if sequence["adapter"] is None:
                    with model.disable_adapter():
                        out.append(model(tokens).logits[0].double())
                else:
                    model.set_adapter(f"a{sequence['adapter']}")
                    out.append(model(tokens).logits[0].double())
        return out

    torch.backends.cuda.matmul.allow_tf32 = False
    exact = logits()
    model.to(torch.bfloat16)
    theirs = logits()
    done = subprocess.run([bench, "hf", folder, "--out", os.path.join(folder, "report.json")], timeout=120)
    if done.returncode != 0:
        print("the binary failed")
        return False
    with open(os.path.join(folder, "logits.bin"), "rb") as file:
        ours = torch.frombuffer(bytearray(file.read()), dtype=torch.float32).view(-1, 512).double().to(device)
    parts = [part for step in steps for part in step]
    if len(parts) != len(ours):
        print(f"{len(ours)} rows of logits for {len(parts)} parts")
        return False
    worst_ours = worst_theirs = 0.0
    agree = 0
    for (sequence, start, count), row in zip(parts, ours):
        at = start + count - 1
        reference = exact[sequence][at]
        error = ((row - reference).norm() / reference.norm()).item()
        worst_ours = max(worst_ours, error) if error == error else float("inf")
        worst_theirs = max(worst_theirs, ((theirs[sequence][at] - reference).norm() / reference.norm()).item())
        agree += int(row.argmax() == reference.argmax())
    right = worst_ours <= 1.5 * worst_theirs and worst_ours < 0.05
    print(f"hf {layers} layers: {len(parts)} parts in {len(steps)} steps, relative norm of logits ours {worst_ours:.4f}, "
          f"Hugging Face bf16 {worst_theirs:.4f}, same token {agree} of {len(parts)}: {'right' if right else 'WRONG'}")
    return right


def main():
    bench, folder = sys.argv[1:3]
    device = "cuda"
    results = [check(bench, os.path.join(folder, f"hf{layers}"), layers, device) for layers in (1, 2)]
    sys.exit(0 if all(results) else 1)


main()
