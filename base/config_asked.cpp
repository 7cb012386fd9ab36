#include "base/config_asked.h"

#include <utility>

#include "base/check.h"

namespace base {
namespace {

thread_local AskedKeys* noting = nullptr;

}  // namespace

AskedKeys::AskedKeys() {
    CHECK(noting == nullptr);
    noting = this;
}

AskedKeys::~AskedKeys() {
    noting = nullptr;
}

AskedKey* AskedKeys::note(std::string_view key, AskedKey::Kind kind, std::string fallback) {
    if (noting == nullptr) { return nullptr; }
    const auto [at, is_new] = noting->keys_.try_emplace(std::string(key));
    if (!is_new) { return nullptr; }
    at->second.key = key;
    at->second.kind = kind;
    at->second.fallback = std::move(fallback);
    return &at->second;
}

}  // namespace base
