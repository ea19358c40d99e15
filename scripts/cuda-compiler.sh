#!/usr/bin/env bash
# NVIDIA's compiler and libraries from the Python package index, as a CUDA home in DIR: enough to
# build `--features cuda-training` on a machine without a card or a toolkit. Then:
#
#   scripts/cuda-compiler.sh DIR
#   source DIR/environment
#   cargo build --release --features cuda-training
#
# CUDA 13.0, since a newer compiler emits code that drivers of 13.0 refuse. CUDA_COMPUTE_CAP is
# the card's compute capability (90 where it is not set: H100, H200).
set -euo pipefail
mkdir -p "$1"
dir=$(realpath "$1")
python3 -m pip download --quiet --no-deps --dest "$dir/wheels" \
    'nvidia-cuda-nvcc==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-crt==13.0.*' \
    'nvidia-cuda-cccl==13.0.*' 'nvidia-cuda-runtime==13.0.*' 'nvidia-cublas==13.0.*' \
    'nvidia-cuda-nvrtc==13.0.*' 'nvidia-curand==10.4.0.35'
for wheel in "$dir"/wheels/*.whl; do
    python3 -m zipfile -e "$wheel" "$dir/tree"
done
from=$dir/tree/nvidia/cu13
home=$dir/home
chmod -R a+x "$from/bin" "$from/nvvm/bin"
mkdir -p "$home/lib64/stubs"
ln -sfn "$from/bin" "$home/bin"
ln -sfn "$from/nvvm" "$home/nvvm"
ln -sfn "$from/include" "$home/include"
for library in "$from"/lib/*; do
    ln -sfn "$library" "$home/lib64/"
    name=$(basename "$library")
    case "$name" in *.so.*) ln -sfn "$library" "$home/lib64/${name%%.so.*}.so" ;; esac
done
ln -sfn "$home/lib64" "$home/lib"
# The driver's library comes with a driver; linking needs its names alone.
printf '#include <cuda.h>\n' | "${CC:-cc}" -E -I "$from/include" - |
    grep -oE '\bcu[A-Z][A-Za-z0-9_]*[[:space:]]*\(' | tr -d '( ' | sort -u |
    sed 's/.*/void &(void) {}/' >"$dir/stub.c"
# Its sources are here once the dependencies are.
cargo fetch --quiet --locked --manifest-path "$(dirname "$0")/../Cargo.toml"
cat "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/cudarc-*/src/driver/sys/mod.rs |
    grep -oE '\bpub (unsafe )?fn cu[A-Z][A-Za-z0-9_]*' | grep -oE 'cu[A-Z].*' |
    sort -u | sed 's/.*/void &(void) {}/' >>"$dir/stub.c"
sort -u -o "$dir/stub.c" "$dir/stub.c"
"${CC:-cc}" -shared -fPIC -w -Wl,-soname,libcuda.so.1 -o "$home/lib64/stubs/libcuda.so" "$dir/stub.c"
cat >"$dir/environment" <<END
export CUDA_HOME='$home' CUDA_PATH='$home' PATH='$home/bin':"\$PATH"
export CUDA_COMPUTE_CAP=\${CUDA_COMPUTE_CAP:-90} LIBRARY_PATH='$home/lib64:$home/lib64/stubs'
END
echo "$dir/environment"
