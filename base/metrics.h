#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <variant>
#include <vector>

namespace prometheus {
class Registry;
}

namespace base {

/// The metrics of one process: named families with labels, and their text form for Prometheus. Thread-safe.
/// Names follow reference tables: prefix `sluice_`, base units, `_total`, `_seconds`, `_bytes`, `_ratio`.
/// The references that come back live as long as this object; ask once and keep them. What may end before the process
/// does asks through a SeriesLease. A name belongs to one type: asking for it as another one is a bug and stops the
/// process.
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
    friend class SeriesLease;
    struct Leased {
        std::uint32_t holders = 0;
        std::function<void()> remove;  // from its family
    };
    using Family = std::variant<prometheus::Family<prometheus::Counter>*, prometheus::Family<prometheus::Gauge>*,
                                prometheus::Family<prometheus::Histogram>*>;
    template <class Metric, class Builder>
    prometheus::Family<Metric>& family(Builder builder, const std::string& name, const std::string& help);
    template <class Metric, class... Edges>
    Metric& keep(prometheus::Family<Metric>& all, const Labels& labels, const Edges&... edges);
    template <class Metric, class... Edges>
    Metric& lend(std::set<const void*>& held, prometheus::Family<Metric>& all, const Labels& labels,
                 const Edges&... edges);
    void give_back(const std::set<const void*>& held);

    std::shared_ptr<prometheus::Registry> registry_;
    mutable std::mutex mutex_;                // guards all below
    std::map<std::string, Family> families_;  // by name
    std::map<const void*, Leased> leased_;    // by series
};

/// The series of something that may end before the process does: a model, a tenant, a role. Asks as Metrics does; when
/// the lease ends, its series are gone from the text, but for those that another lease has, too. References live as
/// long as the lease. A series either stays or is leased: to ask for it in both ways is a bug and stops the process.
/// Leases are independent of each other; each is for one thread at a time.
class SeriesLease {
public:
    /// `metrics` must outlive it.
    explicit SeriesLease(Metrics& metrics) : metrics_(metrics) {}
    ~SeriesLease() { end(); }
    SeriesLease(const SeriesLease&) = delete;
    SeriesLease& operator=(const SeriesLease&) = delete;

    prometheus::Counter& counter(const std::string& name, const std::string& help, const Metrics::Labels& labels = {});
    prometheus::Gauge& gauge(const std::string& name, const std::string& help, const Metrics::Labels& labels = {});
    prometheus::Histogram& histogram(const std::string& name, const std::string& help, const std::vector<double>& edges,
                                     const Metrics::Labels& labels = {});

    /// Its series go now; it may ask for others afterwards.
    void end();

private:
    Metrics& metrics_;
    std::set<const void*> held_;  // series
};

/// Bucket edges in seconds: TTFT and whole requests.
const std::vector<double>& ttft_edges();
/// Bucket edges in seconds: time per output token, gaps, steps.
const std::vector<double>& tpot_edges();
/// Bucket edges in seconds: decisions of microseconds.
const std::vector<double>& decision_edges();

}  // namespace base
