# Builds for other systems with zig as C++ compiler (package ziglang). ONNXPTQ_TARGET names the system:
#   ONNXPTQ_TARGET=aarch64-linux-gnu.2.17 cmake -S ops/native -B build/zig -DCMAKE_TOOLCHAIN_FILE=zig.cmake
set(target $ENV{ONNXPTQ_TARGET})
if(NOT target MATCHES "^([a-z0-9_]+)-(linux|windows|macos)")
  message(FATAL_ERROR "ONNXPTQ_TARGET=${target}: name a system such as aarch64-linux-gnu.2.17 or x86_64-windows-gnu")
endif()
set(CMAKE_SYSTEM_PROCESSOR ${CMAKE_MATCH_1})
string(REPLACE "linux" "Linux" CMAKE_SYSTEM_NAME ${CMAKE_MATCH_2})
string(REPLACE "windows" "Windows" CMAKE_SYSTEM_NAME ${CMAKE_SYSTEM_NAME})
string(REPLACE "macos" "Darwin" CMAKE_SYSTEM_NAME ${CMAKE_SYSTEM_NAME})
find_program(python NAMES python3 python REQUIRED)
set(CMAKE_CXX_COMPILER ${python} -m ziglang c++ -target ${target})
set(CMAKE_STRIP "" CACHE FILEPATH "The linker strips: the host's strip knows no foreign files")
set(CMAKE_SHARED_LINKER_FLAGS_INIT -s)
