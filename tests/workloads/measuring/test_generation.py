"""Models that generate, on several kinds of linear layers, timed."""

import csv
from dataclasses import replace

import pytest
import torch
import transformers

from xmsim.cli.measure_generation import generation_table
from xmsim.configs.errors import RecordError, XmsimError
from xmsim.reference.kernels import native
from xmsim.workloads.measurement import read_measurement
from xmsim.workloads.measuring import experiments as tables
from xmsim.workloads.measuring import generation
from xmsim.workloads.measuring.generate_timing import generate_once, paired_ratio, percentile
from xmsim.workloads.measuring.generation import GenerationPlan, measure_generation
from xmsim.workloads.measuring.generation_profile import profile_rows
from xmsim.workloads.measuring.generation_record import read_generation, write_generation
from xmsim.workloads.measuring.linear_timing import time_linear
from xmsim.workloads.measuring.linear_variants import LinearVariants
from xmsim.workloads.models.shape import load_shape, random_model

KERNELS = ("torch", "packed", "bitmap", "bitmap_int8", "tcabme", "spdp")
needs_kernels = pytest.mark.skipif(native.library() is None, reason="no compiled kernels")


@pytest.fixture(scope="module")
def shape_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("shape") / "small.yaml"
    sizes = {"hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8, "intermediate_size": 48, "vocabulary": 100}
    lines = [f"{key}: {value}" for key, value in sizes.items()]
    path.write_text("\n".join([*lines, "tied_embeddings: true", "rope_theta: 1.0e+4", "sources: {}", ""]))
    return path


@pytest.fixture(scope="module")
def plan(shape_file):
    return GenerationPlan(
        shape=str(shape_file), kernels=KERNELS, input_tokens=6, new_tokens=3, warmup=0, repeat=2, threads=1, layer_repeats=2
    )


@needs_kernels
def test_a_record_has_every_shape_and_every_kernel_and_survives_its_file(plan, tmp_path):
    record = measure_generation(replace(plan, save_per_token=True, profile=True))
    assert {(run.in_features, run.out_features) for run in record.linears} == {(32, 32), (32, 16), (32, 48), (48, 32)}
    assert [run.kernel for run in record.generations] == [run.kernel for run in record.linears[: len(KERNELS)]] == list(KERNELS)
    for run in record.generations:
        assert [len(tokens) for tokens in run.token_ms] == [3, 3] and run.time_per_output_token.n == 6
        assert set(run.speedup) == set(KERNELS) - {run.kernel}
        assert run.exchanged_layers == (0 if run.kernel == "torch" else 14)
    for run in record.linears:
        assert run.max_error <= run.allowed_error and 0.5 <= run.sparsity < 0.51
    assert set(record.profiles) == set(KERNELS)
    assert all(sum(row.share for row in rows) == pytest.approx(1) for rows in record.profiles.values())
    write_generation(tmp_path / "generation.json", record)
    assert read_generation(tmp_path / "generation.json") == replace(
        record, generations=tuple(replace(run, token_ms=tuple(run.token_ms)) for run in record.generations)
    )
    with pytest.raises(RecordError, match=r"xmsim\.generation"):
        read_measurement(tmp_path / "generation.json")


@needs_kernels
def test_without_a_sparsity_layers_are_timed_with_the_zeros_that_the_models_have(plan, monkeypatch):
    from xmsim.workloads.measuring import generation as module

    made = module.random_model

    def half_pruned(*given, **named):
        model = made(*given, **named)
        for layer in module.linear_layers(model).values():
            layer.weight[:, ::2] = 0
        return model

    monkeypatch.setattr(module, "random_model", half_pruned)
    record = measure_generation(replace(plan, sparsity=None, kernels=("torch", "bitmap")))
    assert all(run.sparsity == pytest.approx(0.5, abs=0.01) for run in record.linears)


@needs_kernels
def test_all_kernels_of_one_model_give_the_same_logits(shape_file):
    model = random_model(load_shape(shape_file), dtype="float32")
    variants = LinearVariants(model, ("torch", "packed", "bitmap"), sparsity=0.5, include=["*proj", "lm_head"])
    tokens = torch.arange(7)[None]
    logits = {}
    with torch.inference_mode():
        for kernel in variants.layers:
            variants.use(kernel)
            logits[kernel] = model(tokens).logits
    assert "lm_head" in variants.layers["bitmap"]
    for kernel in ("packed", "bitmap"):
        torch.testing.assert_close(logits[kernel], logits["torch"], rtol=1e-4, atol=1e-5)
    assert variants.weight_bytes("bitmap") < variants.weight_bytes("packed")


@needs_kernels
def test_a_kernel_that_computes_something_else_is_not_timed(monkeypatch):
    from xmsim.workloads.measuring import linear_timing

    wrong = torch.nn.Linear(8, 8, bias=False)
    monkeypatch.setattr(linear_timing, "kernel_layer", lambda plain, kernel: wrong)
    with pytest.raises(XmsimError, match="kernel packed: error"):
        time_linear(8, 8, ("torch", "packed"), sparsity=0.5, dtype="float32", threads=1, repeats=2)


@needs_kernels
@pytest.mark.parametrize("batch", [1, 2])
def test_decoding_on_our_dense_attention_gives_the_same_words(shape_file, batch, monkeypatch):
    from xmsim.reference.kernels import attention
    from xmsim.workloads.models.native_attention import use_native_attention

    def words(model):
        return model.generate(torch.arange(1, 6).repeat(batch, 1), max_new_tokens=6, do_sample=False, pad_token_id=0)

    plain, ours = (random_model(load_shape(shape_file), dtype="float32") for _ in range(2))
    use_native_attention(ours)
    calls, kernel = [], attention.causal_attention
    monkeypatch.setattr(attention, "causal_attention", lambda *a, **k: calls.append(1) or kernel(*a, **k))
    assert torch.equal(words(ours), words(plain))
    assert len(calls) == 2 * 5 * batch  # layers × tokens behind the first × sequences


def test_decoding_gives_one_time_for_each_token(shape_file):
    model = random_model(load_shape(shape_file), dtype="float32")
    first_ms, token_ms = generate_once(model, torch.arange(5)[None], 4)
    assert first_ms > 0 and len(token_ms) == 4 and min(token_ms) > 0


def test_the_layer_of_the_logits_gets_plain_strides_while_it_is_timed_and_no_longer(shape_file):
    model = random_model(load_shape(shape_file), dtype="float32")
    seen = []
    model.lm_head.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0].stride()))
    generate_once(model, torch.arange(5)[None], 2)
    assert seen == [(32, 32, 1)] * 3
    model(torch.arange(5)[None], logits_to_keep=1)
    assert seen[-1] == (5 * 32, 32, 1)


def test_ratios_are_of_pairs_and_percentiles_between_neighbours():
    ratio = paired_ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0])
    assert (ratio.n, ratio.median, ratio.first_quartile, ratio.third_quartile) == (3, 2.0, 1.5, 2.5)
    assert percentile([4.0, 1.0, 2.0, 3.0], 50) == 2.5
    assert percentile([5.0], 99) == 5.0
    assert percentile(list(range(101)), 99) == 99


@needs_kernels
def test_a_plan_that_cannot_be_measured_is_refused_by_name(plan):
    with pytest.raises(XmsimError, match="repeat: 1 is too few; choose at least 2"):
        replace(plan, repeat=1)
    with pytest.raises(XmsimError, match=r"sparsity: 1\.5 is not a share"):
        replace(plan, sparsity=1.5)
    with pytest.raises(XmsimError, match="dtype: no float64; our kernels compute in bfloat16, float32, float16"):
        replace(plan, dtype="float64")
    with pytest.raises(XmsimError, match="attention flash_attention_2 is not possible here"):
        measure_generation(replace(plan, attention="flash_attention_2", layer_repeats=0))
    with pytest.raises(XmsimError, match="no kernel marlin; linear layers run on torch, bitmap"):
        measure_generation(replace(plan, kernels=("torch", "marlin"), layer_repeats=0))
    with pytest.raises(XmsimError, match="no linear layer of this model has such a name"):
        measure_generation(replace(plan, include=("*.qkv",)))
    with pytest.raises(XmsimError, match="do not fit the 131072 positions"):
        measure_generation(replace(plan, kernels=("torch",), input_tokens=131072, layer_repeats=0))
    with pytest.raises(XmsimError, match="threads: 4096 is not possible here"):
        measure_generation(replace(plan, threads=4096))


def test_inputs_that_are_no_whole_number_of_fours_are_named_before_anything_is_timed(plan, tmp_path, shape_file):
    path = tmp_path / "odd.yaml"
    path.write_text(shape_file.read_text().replace("intermediate_size: 48", "intermediate_size: 46"))
    with pytest.raises(XmsimError, match=r"layers\.0\.mlp\.down_proj: its 46 inputs are no whole number of fours, which kernel 2:4 needs"):
        measure_generation(replace(plan, shape=str(path), kernels=("torch", "2:4")))


def test_a_plan_that_a_gpu_cannot_serve_is_refused_by_name(plan, monkeypatch):
    with pytest.raises(XmsimError, match=r"^device: no tpu; choose cpu or cuda$"):
        replace(plan, device="tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(XmsimError, match=r"^device cuda: torch finds no CUDA GPU on this host; use --device cpu$"):
        replace(plan, device="cuda", kernels=("torch",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(generation, "cuda_library", lambda: None)
    with pytest.raises(XmsimError, match="kernel packed runs on the CPU only; on cuda there are torch, bitmap, tcabme, spdp, teal, 2:4"):
        replace(plan, device="cuda")
    with pytest.raises(XmsimError, match="dtype float32: kernel spdp computes in bfloat16 or float16 on a GPU"):
        replace(plan, device="cuda", kernels=("torch", "spdp"), dtype="float32")
    with pytest.raises(XmsimError, match=r"kernel spdp: the CUDA kernels are not built; .* or run python -m xmsim"):
        replace(plan, device="cuda", kernels=("torch", "spdp"))
    with pytest.raises(XmsimError, match="attention native is the CPU's"):
        replace(plan, device="cuda", kernels=("torch",), attention="native")


SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SIZES |= {"num_key_value_heads": 2, "pad_token_id": 0}


def stored_model(folder, family, **arguments):
    """A model of random weights on disk; its folder."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**arguments)
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(folder)
    return str(folder)


FAMILIES_THAT_CANNOT_BE_TIMED_SO = {
    "bloom": ("Bloom", {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "sdpa", "bloom keeps its own; choose eager"),
    "gemma2": ("Gemma2", SIZES | {"head_dim": 8}, "native", "gemma2 changes its scores through a softcap; choose eager"),
    "recurrent_gemma": (
        "RecurrentGemma",
        SIZES | {"lru_width": 32, "num_hidden_layers": 3},
        "eager",
        "recurrent_gemma: .* gives back no cache",
    ),
    "jamba": (
        "Jamba",
        SIZES | {"use_mamba_kernels": False, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 8},
        "eager",
        r"jamba: this family does not run on kernel packed \(.*'weight'\); choose layers by --include",
    ),
}


@needs_kernels
@pytest.mark.parametrize("family", FAMILIES_THAT_CANNOT_BE_TIMED_SO)
def test_a_family_that_cannot_be_timed_so_is_refused_in_a_sentence(family, plan, tmp_path):
    name, arguments, attention, sentence = FAMILIES_THAT_CANNOT_BE_TIMED_SO[family]
    model = stored_model(tmp_path / "model", name, **arguments)
    with pytest.raises(XmsimError, match=sentence):
        measure_generation(replace(plan, shape=None, model=model, kernels=("torch", "packed"), attention=attention))


@needs_kernels
def test_a_record_says_how_much_of_a_mixture_is_in_experts_and_its_table_repeats_it(plan, tmp_path):
    model = stored_model(tmp_path / "model", "Mixtral", **SIZES, num_local_experts=4)
    record = measure_generation(replace(plan, shape=None, model=model, kernels=("torch", "packed"), layer_repeats=0))
    assert record.conditions["experts"] == pytest.approx(0.771, abs=0.05)
    title = str(generation_table(record).title)
    assert f"{record.conditions['experts']:.0%} of the weights in experts and left as they are" in title


def test_a_profile_adds_up_what_it_does_not_show():
    rows = profile_rows([(f"kernel {n}", 1, 1000.0 * n) for n in range(1, 15)])
    assert [row.operator for row in rows[:2]] == ["kernel 14", "kernel 13"] and len(rows) == 13
    assert rows[-1].operator == "all others" and rows[-1].self_ms == 1 + 2 and rows[-1].calls == 2
    assert sum(row.share for row in rows) == pytest.approx(1)


def test_a_missing_kernel_is_an_error_unless_dense_is_allowed(plan, monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    with pytest.raises(XmsimError, match="--allow-dense"):
        measure_generation(plan)


def test_experiments_resume_where_they_stopped(tmp_path, shape_file, plan):
    table = tmp_path / "experiments.csv"
    tables.write_example(table)
    with pytest.raises(XmsimError, match="there is such a file already"):
        tables.write_example(table)
    assert [experiment.kernel for experiment in tables.read_experiments(table)] == ["packed", "bitmap", "bitmap_int8"]
    rows = [tables.COLUMNS, (shape_file, "torch", "0.5", "1", "6", "1", "float32"), (shape_file, "torch", "0.7", "2", "6", "1", "float32")]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    measured = []

    def measure(each):
        measured.append(each.sparsity)
        if len(measured) == 2:
            raise XmsimError("stopped")
        return measure_generation(each)

    base = replace(plan, shape=None, layer_repeats=0)
    with pytest.raises(XmsimError, match="stopped"):
        list(tables.run_experiments(tables.read_experiments(table), tmp_path / "runs", base, measure))
    done = list(tables.run_experiments(tables.read_experiments(table), tmp_path / "runs", base, measure))
    assert measured == [0.5, 0.7, 0.7] and [path.exists() for _, path, _ in done] == [True, True]
    assert done[1][2].conditions["batch"] == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", ":1: the first line must be model,kernel"),
        ("model,kernel\n", ":1: the first line must be model,kernel"),
        (",".join(tables.COLUMNS) + "\n", "no experiment below the header"),
        (",".join(tables.COLUMNS) + "\nx,bitmap,half,1,1,1,float32\n", ":2: sparsity: 'half' is not a number"),
        (",".join(tables.COLUMNS) + "\nx,bitmap,0.5,1\n", ":2: 4 values, but there are 7 columns"),
    ],
)
def test_a_faulty_table_is_answered_with_its_line(tmp_path, text, sentence):
    path = tmp_path / "experiments.csv"
    path.write_text(text)
    with pytest.raises(XmsimError, match=sentence):
        tables.read_experiments(path)
