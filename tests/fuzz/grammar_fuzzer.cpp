// libFuzzer's target for schemas and grammars (preset `fuzz`).
#include "tests/fuzz/grammar_target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::grammar({reinterpret_cast<const char*>(data), size});
    return 0;
}
