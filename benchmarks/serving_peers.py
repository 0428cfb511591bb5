"""The HTTP server of llama.cpp with a GGUF file, for 32 clients; benchmarks.serving runs it in another environment.

Arguments: the file and the port. It ends by SIGTERM.
"""

import signal
import sys

import xllamacpp

NUM_SLOTS, TOKENS_PER_SLOT = 32, 512


def main() -> None:
    """Serve until the end."""
    params = xllamacpp.CommonParams()
    params.model.path, port = sys.argv[1:]
    params.hostnames, params.port = ["127.0.0.1"], int(port)
    params.n_parallel, params.n_ctx, params.n_gpu_layers = NUM_SLOTS, NUM_SLOTS * TOKENS_PER_SLOT, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.verbosity = 0
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
