// libFuzzer's target for tokenizer files (preset `fuzz`).
#include "tests/fuzz/text_targets.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::tokenizer({reinterpret_cast<const char*>(data), size});
    return 0;
}
