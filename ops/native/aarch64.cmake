# Cross build for 64-bit Arm on Debian (g++-aarch64-linux-gnu); programs run under qemu-user:
#   cmake -S ops/native -B build/aarch64 -DCMAKE_TOOLCHAIN_FILE=aarch64.cmake -DONNXPTQ_TESTS=ON
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
