"""Times vLLM on the CPU: equal requests that all arrive at once, in one process.

Usage: measure.py MODEL_FOLDER OUT.csv. Wall-clock times, and the same less the longest wait of any
of the process's threads for a CPU that other processes held (/proc/self/task/*/schedstat).
"""
import csv, glob, os, sys, time
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
import vllm
from vllm import EngineArgs, LLMEngine, SamplingParams

CASES = [(1, 128, 16), (4, 128, 16), (8, 128, 16)]
REPEATS = 3

def waits():
    found = {}
    for path in glob.glob("/proc/self/task/*/schedstat"):
        try:
            run, waited, _ = open(path).read().split()
        except OSError:
            continue
        found[path] = (int(run), int(waited))
    return found

def less_waits(before, after, wall):
    since = [(after[p][0] - before[p][0], after[p][1] - before[p][1]) for p in after if p in before]
    run, waited = max(r for r, _ in since) / 1e9, max(w for _, w in since) / 1e9
    return min(wall, max(wall - waited, run))

engine = LLMEngine.from_engine_args(EngineArgs(
    model=sys.argv[1], load_format="dummy", skip_tokenizer_init=True, dtype="float32",
    max_model_len=2048, max_num_seqs=32, enforce_eager=True, enable_prefix_caching=False, seed=0))
number = 0

def run(batch, prompt, output):
    global number
    params = SamplingParams(max_tokens=output, min_tokens=output, ignore_eos=True, temperature=0.0, detokenize=False)
    for i in range(batch):
        tokens = [(7 * j + 13 * (number + i)) % 31000 + 10 for j in range(prompt)]
        engine.add_request(str(number + i), {"prompt_token_ids": tokens}, params)
    number += batch
    first, start, book = {}, time.perf_counter(), waits()
    first_true = None
    while engine.has_unfinished_requests():
        outputs = engine.step()
        now = time.perf_counter() - start
        for o in outputs:
            first.setdefault(o.request_id, now)
        if first_true is None and len(first) == batch:
            first_true, first_book, first_wall = less_waits(book, waits(), now), waits(), now
    wall = time.perf_counter() - start
    end = waits()
    decode_true = less_waits(first_book, end, wall - first_wall)
    ttft = sum(first.values()) / batch
    return ttft, first_wall, wall, first_true, decode_true

rows = []
for batch, prompt, output in CASES:
    run(batch, prompt, output)
    for repeat in range(REPEATS):
        load = os.getloadavg()[0]
        ttft, first_wall, wall, first_true, decode_true = run(batch, prompt, output)
        rows.append([batch, prompt, output, repeat, f"{load:.1f}", f"{ttft:.5f}", f"{first_wall:.5f}", f"{wall:.5f}",
                     f"{first_true:.5f}", f"{decode_true / (output - 1):.6f}"])
        print(*rows[-1], flush=True)
with open(sys.argv[2], "w", newline="") as out:
    w = csv.writer(out)
    w.writerow("batch prompt output repeat load_average ttft_mean_s all_first_tokens_s total_s all_first_tokens_less_waits_s tpot_less_waits_s".split())
    w.writerows(rows)
print("vllm", vllm.__version__)
