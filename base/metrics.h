#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <variant>
#include <vector>

namespace prometheus {
class Registry;
}

namespace base {

/// The metrics of one process: named families with labels, and their text form for Prometheus. Thread-safe.
/// Names follow reference tables: prefix `sluice_`, base units, `_total`, `_seconds`, `_bytes`, `_ratio`.
/// The references that come back live as long as this object; ask once and keep them. A name belongs to one type:
/// asking for it as another one is a bug and stops the process.
class Metrics {
public:
    using Labels = std::map<std::string, std::string>;

    Metrics();
    ~Metrics();
    Metrics(const Metrics&) = delete;
    Metrics& operator=(const Metrics&) = delete;

    prometheus::Counter& counter(const std::string& name, const std::string& help, const Labels& labels = {});
    prometheus::Gauge& gauge(const std::string& name, const std::string& help, const Labels& labels = {});
    /// `edges` ascending. All members of a family must use the same ones.
    prometheus::Histogram& histogram(const std::string& name, const std::string& help, const std::vector<double>& edges,
                                     const Labels& labels = {});

    /// Prometheus text format 0.0.4, with process_* (cpu seconds, resident bytes, open files, start time) appended.
    std::string text() const;

private:
    using Family = std::variant<prometheus::Family<prometheus::Counter>*, prometheus::Family<prometheus::Gauge>*,
                                prometheus::Family<prometheus::Histogram>*>;
    template <class Metric, class Builder>
    prometheus::Family<Metric>& family(Builder builder, const std::string& name, const std::string& help);

    std::shared_ptr<prometheus::Registry> registry_;
    mutable std::mutex mutex_;                // guards the families below
    std::map<std::string, Family> families_;  // by name
};

/// Bucket edges in seconds: TTFT and whole requests.
const std::vector<double>& ttft_edges();
/// Bucket edges in seconds: time per output token, gaps, steps.
const std::vector<double>& tpot_edges();
/// Bucket edges in seconds: decisions of microseconds.
const std::vector<double>& decision_edges();

}  // namespace base
