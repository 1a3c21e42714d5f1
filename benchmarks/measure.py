"What several benchmarks share: competitors that take turns, and measurements in processes of their own"
import json, os, subprocess, sys, time
from importlib import import_module
from pathlib import Path

def turns(runs, rounds):
    "Seconds of each of `runs`, a dictionary of functions, in each round; a first round, which is not counted, warms up"
    found = {k: [] for k in runs}
    for r in range(rounds + 1):
        for k, f in runs.items():
            start = time.perf_counter()
            f()
            if r: found[k].append(time.perf_counter() - start)
    return found

def apart(script, function, *args, threads, limit=None):
    "What a function of a benchmark returns in a new process with `threads` threads, which a pool of threads keeps for good; in error RuntimeError with the last line that it wrote, or TimeoutExpired"
    env = {**os.environ, 'OMP_NUM_THREADS': str(threads), 'OMP_WAIT_POLICY': os.environ.get('OMP_WAIT_POLICY', 'PASSIVE')}   # as the program sets them
    command = [sys.executable, '-W', 'ignore', __file__, Path(script).stem, function, json.dumps(args), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=limit)
    if done.returncode < 0: raise RuntimeError('killed: out of memory?')
    if done.returncode: raise RuntimeError((done.stderr.strip().splitlines() or ['it failed'])[-1])
    return json.loads(done.stdout.splitlines()[-1])

if __name__ == '__main__':   # in the new process
    import cv2, torch
    script, function, args, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    cv2.setNumThreads(int(threads))
    torch.manual_seed(0)
    print(json.dumps(getattr(import_module(script), function)(*json.loads(args))))
