#include "gateway/slo.h"

#include <algorithm>
#include <charconv>
#include <utility>

namespace gateway {
namespace {

constexpr std::int64_t kMillisecondsMax = 3'600'000;
constexpr std::size_t kClassesMax = 32;  // each has metrics of its own

bool is_name(std::string_view text) {
    return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
    });
}

base::Duration milliseconds(base::Config& config, const std::string& key) {
    return std::chrono::milliseconds(config.integer(key, 0, 0, kMillisecondsMax));
}

ApiResult<std::optional<base::Duration>> milliseconds_of(const RequestHead& head,
                                                         std::initializer_list<std::string_view> names) {
    for (const std::string_view name : names) {
        const std::string* text = head.field(name);
        if (text == nullptr) { continue; }
        std::int64_t count = 0;
        const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), count);
        if (error != std::errc() || end != text->data() + text->size() || count < 0 || count > kMillisecondsMax) {
            return bad_request("", "the header " + std::string(name) +
                                       " must be a whole number of milliseconds from 0 to " +
                                       std::to_string(kMillisecondsMax));
        }
        return std::optional<base::Duration>(std::chrono::milliseconds(count));
    }
    return std::optional<base::Duration>();
}

std::int64_t count_ms(base::Duration duration) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
}

}  // namespace

base::Duration read_attainment_window(base::Config& config) {
    return std::chrono::milliseconds(config.integer("slo.attainment_window_ms", 300'000, 1000, 600'000));
}

SloClasses::SloClasses() {
    classes_.push_back({.name = "default", .targets = {}});
}

SloClasses SloClasses::read(base::Config& config) {
    SloClasses slo;
    for (const std::string& name : config.children("slo_classes")) {
        const std::string prefix = "slo_classes." + name + ".";
        SloClass one{.name = name,
                     .targets = {.ttft = milliseconds(config, prefix + "ttft_ms"),
                                 .tpot = milliseconds(config, prefix + "tpot_ms"),
                                 .e2e = milliseconds(config, prefix + "e2e_ms")},
                     .priority = static_cast<std::int32_t>(config.integer(prefix + "priority", 0, -100, 100)),
                     .lossy_kv = config.boolean(prefix + "lossy_kv", false),
                     .drops_late = config.choice(prefix + "late", "serve", {"serve", "drop"}) == "drop"};
        const double attainment = config.number(prefix + "attainment", 0.9, 0.5, 1);
        const std::vector<std::string> said = config.children("slo_classes." + name);
        if (std::find(said.begin(), said.end(), "attainment") != said.end()) { one.attainment = attainment; }
        if (!is_name(name)) { config.problem("slo_classes." + name, "must be named by 1 to 64 of a-z 0-9 _ -"); }
        if (name == "default") {
            slo.classes_[0] = std::move(one);
        } else if (slo.classes_.size() < kClassesMax) {
            slo.classes_.push_back(std::move(one));
        } else {
            config.problem("slo_classes." + name, "is one of more than " + std::to_string(kClassesMax) + " classes");
        }
    }
    slo.default_ = 0;
    const std::string chosen = config.choice("slo.default_class", "default", slo.names());
    for (std::size_t i = 0; i < slo.size(); ++i) {
        if (slo[i].name == chosen) { slo.default_ = i; }
    }
    slo.allows_lossy_kv_ = config.choice("slo.lossy_kv", "off", {"off", "allowed"}) == "allowed";
    slo.ttft_min_ = std::chrono::milliseconds(config.integer("slo.ttft_ms_min", 1, 1, kMillisecondsMax));
    slo.tpot_min_ = std::chrono::milliseconds(config.integer("slo.tpot_ms_min", 1, 1, kMillisecondsMax));
    return slo;
}

std::vector<std::string> SloClasses::names() const {
    std::vector<std::string> names;
    for (const SloClass& one : classes_) {
        names.push_back(one.name);
    }
    return names;
}

std::vector<SloTargets> SloClasses::targets() const {
    std::vector<SloTargets> targets;
    for (const SloClass& one : classes_) {
        targets.push_back(one.targets);
    }
    return targets;
}

std::vector<ClassAim> SloClasses::aims() const {
    std::vector<ClassAim> aims;
    for (const SloClass& one : classes_) {
        if (one.attainment) { aims.push_back({one.name, *one.attainment}); }
    }
    return aims;
}

ApiResult<SloWish> SloClasses::wish_of(const RequestHead& head) {
    SloWish wish;
    if (const std::string* name = head.field("x-slo-class")) { wish.class_name = *name; }
    auto ttft = milliseconds_of(head, {"x-slo-ttft-ms", "x-llm-d-slo-ttft-ms"});
    if (!ttft) { return pass_on(ttft.error()); }
    auto tpot = milliseconds_of(head, {"x-slo-tpot-ms", "x-llm-d-slo-tpot-ms"});
    if (!tpot) { return pass_on(tpot.error()); }
    auto e2e = milliseconds_of(head, {"x-slo-e2e-ms"});
    if (!e2e) { return pass_on(e2e.error()); }
    if (const std::string* kv = head.field("x-sluice-kv")) {
        if (*kv != "lossy" && *kv != "exact") {
            return bad_request("", "the header x-sluice-kv must be lossy or exact");
        }
        wish.lossy_kv = *kv == "lossy";
    }
    wish.ttft = *ttft;
    wish.tpot = *tpot;
    wish.e2e = *e2e;
    return wish;
}

ApiResult<RequestSlo> SloClasses::resolve(const SloWish& body, const SloWish& header) const {
    std::size_t index = default_;
    if (const auto& name = body.class_name ? body.class_name : header.class_name) {
        const auto at =
            std::find_if(classes_.begin(), classes_.end(), [&](const SloClass& one) { return one.name == *name; });
        if (at == classes_.end()) {
            std::string known;
            for (const std::string& one : names()) {
                known += (known.empty() ? "" : ", ") + one;
            }
            return bad_request("slo.class", "there is no SLO class '" + name->substr(0, 64) + "'; there are: " + known);
        }
        index = static_cast<std::size_t>(at - classes_.begin());
    }
    RequestSlo slo{.class_name = classes_[index].name,
                   .class_index = index,
                   .targets = classes_[index].targets,
                   .priority = classes_[index].priority,
                   .drops_late = classes_[index].drops_late};
    const std::optional<bool>& asked_lossy = body.lossy_kv ? body.lossy_kv : header.lossy_kv;
    slo.allow_lossy_kv = allows_lossy_kv_ && asked_lossy.value_or(classes_[index].lossy_kv);
    const auto take = [](const std::optional<base::Duration>& first, const std::optional<base::Duration>& second,
                         base::Duration least, const char* param, base::Duration& target) -> std::optional<ApiError> {
        const auto& asked = first ? first : second;
        if (!asked) { return std::nullopt; }
        if (*asked > base::Duration::zero() && *asked < least) {
            return bad_request(param, "a target of " + std::to_string(count_ms(*asked)) +
                                          " ms is below the least that may be asked for here, " +
                                          std::to_string(count_ms(least)) + " ms")
                .value();
        }
        target = *asked;
        return std::nullopt;
    };
    if (auto error = take(body.ttft, header.ttft, ttft_min_, "slo.ttft_ms", slo.targets.ttft)) {
        return pass_on(*error);
    }
    if (auto error = take(body.tpot, header.tpot, tpot_min_, "slo.tpot_ms", slo.targets.tpot)) {
        return pass_on(*error);
    }
    if (const auto& asked = body.e2e ? body.e2e : header.e2e) { slo.targets.e2e = *asked; }
    return slo;
}

}  // namespace gateway
