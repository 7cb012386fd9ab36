// Our own settings: a YAML file and a --set. Refused with a message, or values within the bounds that were asked for.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string text(reinterpret_cast<const char*>(data), size);
    const std::string file = text.substr(0, text.find('\0'));
    base::Config config;
    static_cast<void>(config.add_text(file, "fuzz.yaml"));
    if (file.size() < text.size()) { static_cast<void>(config.set(text.substr(file.size() + 1))); }
    const std::int64_t number = config.integer("a.number", 5, 1, 10);
    const double share = config.number("a.share", 0.5, 0.0, 1.0);
    static_cast<void>(config.boolean("a.flag", false));
    static_cast<void>(config.string("a.name", "x"));
    static_cast<void>(config.choice("a.kind", "one", {"one", "two"}));
    static_cast<void>(config.strings("a.list", {}));
    for (const std::string& child : config.children("models")) {
        static_cast<void>(config.string("models." + child + ".path", ""));
    }
    if (config.finish() && (number < 1 || number > 10 || !(share >= 0 && share <= 1))) { std::abort(); }
    static_cast<void>(config.merged());
    return 0;
}
