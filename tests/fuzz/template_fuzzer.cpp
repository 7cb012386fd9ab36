// libFuzzer's target for chat templates (preset `fuzz`).
#include "tests/fuzz/text_targets.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::chat_template({reinterpret_cast<const char*>(data), size});
    return 0;
}
