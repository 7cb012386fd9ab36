#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/config.h"
#include "gateway/http/gate.h"
#include "gateway/openai/errors.h"
#include "gateway/request/slo_targets.h"

namespace gateway {

/// What is promised to one kind of requests.
struct SloClass {
    std::string name;
    SloTargets targets;
    std::optional<double> attainment = {};  // share of its requests that shall meet both; empty: nobody says
    std::int32_t priority = 0;              // higher goes first
    bool lossy_kv = false;                  // KV of its requests may lose a little, where that is allowed at all
    bool drops_late = false;  // what has no first token when that is due is given up; else it is served late
};

/// Setting `slo.attainment_window_ms`: what was attained is told of the requests of so long.
base::Duration read_attainment_window(base::Config& config);

/// The classes of a gateway: sections `slo_classes.NAME` and `slo` of the config. Immutable: any thread.
class SloClasses {
public:
    /// One class, "default", that promises nothing.
    SloClasses();
    /// Bad values are reported by config.finish().
    static SloClasses read(base::Config& config);

    std::size_t size() const { return classes_.size(); }
    const SloClass& operator[](std::size_t index) const { return classes_[index]; }
    std::vector<std::string> names() const;
    /// In the order of names().
    std::vector<SloTargets> targets() const;
    /// Of those that have one.
    std::vector<ClassAim> aims() const;

    /// Of the header fields x-slo-class, x-slo-ttft-ms, x-slo-tpot-ms and x-slo-e2e-ms, or of llm-d's
    /// x-llm-d-slo-ttft-ms and x-llm-d-slo-tpot-ms where those are not there; and of x-sluice-kv (lossy, exact). Error:
    /// 400 for what is no number of milliseconds, and none of the two words.
    static ApiResult<SloWish> wish_of(const RequestHead& head);
    /// What a request is promised: what the body says, else the header, else the class. Error: 400 for a class that
    /// does not exist, and for targets outside the bounds of the config.
    ApiResult<RequestSlo> resolve(const SloWish& body, const SloWish& header) const;

private:
    std::vector<SloClass> classes_;
    std::size_t default_ = 0;
    bool allows_lossy_kv_ = false;
    base::Duration ttft_min_ = std::chrono::milliseconds(1);  // that a client may ask for
    base::Duration tpot_min_ = std::chrono::milliseconds(1);
};

}  // namespace gateway
