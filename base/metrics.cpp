#include "base/metrics.h"

#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/check.h"

namespace base {
namespace {

std::string process_text() {
    std::ostringstream out;
    out.precision(15);
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const double cpu_seconds = static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                               static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
    out << "# HELP process_cpu_seconds_total User and system CPU time\n# TYPE process_cpu_seconds_total counter\n"
        << "process_cpu_seconds_total " << cpu_seconds << "\n";

    std::ifstream statm("/proc/self/statm");
    std::uint64_t pages_total = 0;
    std::uint64_t pages_resident = 0;
    if (statm >> pages_total >> pages_resident) {
        const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
        out << "# HELP process_resident_memory_bytes Resident memory\n# TYPE process_resident_memory_bytes gauge\n"
            << "process_resident_memory_bytes " << pages_resident * page << "\n";
    }

    std::error_code error;
    std::uint64_t open_files = 0;
    for (auto entry = std::filesystem::directory_iterator("/proc/self/fd", error);
         !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
        ++open_files;
    }
    out << "# HELP process_open_fds Open file descriptors\n# TYPE process_open_fds gauge\nprocess_open_fds "
        << open_files << "\n";

    // Field 22 of /proc/self/stat: start time in clock ticks after boot. The name (field 2) may hold spaces: skip to
    // ')'.
    std::ifstream stat_file("/proc/self/stat");
    std::string stat_line;
    std::getline(stat_file, stat_line);
    std::ifstream proc_stat("/proc/stat");
    std::string word;
    std::uint64_t boot_seconds = 0;
    while (proc_stat >> word) {
        if (word == "btime") {
            proc_stat >> boot_seconds;
            break;
        }
    }
    if (const auto after_name = stat_line.rfind(')'); after_name != std::string::npos) {
        std::istringstream fields(stat_line.substr(after_name + 1));
        std::uint64_t start_ticks = 0;
        for (int field = 3; field <= 22 && fields >> word; ++field) {
            if (field == 22) { start_ticks = std::stoull(word); }
        }
        const double start = static_cast<double>(boot_seconds) +
                             static_cast<double>(start_ticks) / static_cast<double>(sysconf(_SC_CLK_TCK));
        out << "# HELP process_start_time_seconds Start, since the Unix epoch\n# TYPE process_start_time_seconds "
               "gauge\n"
            << "process_start_time_seconds " << start << "\n";
    }
    return out.str();
}

}  // namespace

Metrics::Metrics() : registry_(std::make_shared<prometheus::Registry>()) {}
Metrics::~Metrics() = default;

/// The caller holds mutex_.
template <class Metric, class Builder>
prometheus::Family<Metric>& Metrics::family(Builder builder, const std::string& name, const std::string& help) {
    auto found = families_.find(name);
    if (found == families_.end()) {
        found = families_.emplace(name, &builder.Name(name).Help(help).Register(*registry_)).first;
    }
    constexpr const char* kTypes[] = {"counter", "gauge", "histogram"};  // as in Family
    const Family asked = static_cast<prometheus::Family<Metric>*>(nullptr);
    CHECK(found->second.index() == asked.index(),
          name << " is a " << kTypes[found->second.index()] << " and was asked for as a " << kTypes[asked.index()]);
    return *std::get<prometheus::Family<Metric>*>(found->second);
}

/// The caller holds mutex_.
template <class Metric, class... Edges>
Metric& Metrics::keep(prometheus::Family<Metric>& all, const Labels& labels, const Edges&... edges) {
    Metric& series = all.Add(labels, edges...);
    CHECK(leased_.empty() || !leased_.contains(&series),
          "a series of " << all.GetName() << " is asked for as one that stays, and a lease would take it away");
    return series;
}

/// The caller holds mutex_.
template <class Metric, class... Edges>
Metric& Metrics::lend(std::set<const void*>& held, prometheus::Family<Metric>& all, const Labels& labels,
                      const Edges&... edges) {
    const bool was_there = all.Has(labels);
    Metric& series = all.Add(labels, edges...);
    const auto [at, is_new] = leased_.try_emplace(&series);
    if (is_new) {
        CHECK(!was_there, "a series of " << all.GetName() << " is asked for as one that ends, and others keep it");
        at->second.remove = [&all, &series] { all.Remove(&series); };
    }
    if (held.insert(&series).second) { ++at->second.holders; }
    return series;
}

void Metrics::give_back(const std::set<const void*>& held) {
    const std::scoped_lock lock(mutex_);
    for (const void* series : held) {
        const auto at = leased_.find(series);
        CHECK(at != leased_.end() && at->second.holders > 0);
        if (--at->second.holders > 0) { continue; }
        at->second.remove();
        leased_.erase(at);
    }
}

prometheus::Counter& Metrics::counter(const std::string& name, const std::string& help, const Labels& labels) {
    const std::scoped_lock lock(mutex_);
    return keep(family<prometheus::Counter>(prometheus::BuildCounter(), name, help), labels);
}

prometheus::Gauge& Metrics::gauge(const std::string& name, const std::string& help, const Labels& labels) {
    const std::scoped_lock lock(mutex_);
    return keep(family<prometheus::Gauge>(prometheus::BuildGauge(), name, help), labels);
}

prometheus::Histogram& Metrics::histogram(const std::string& name, const std::string& help,
                                          const std::vector<double>& edges, const Labels& labels) {
    const std::scoped_lock lock(mutex_);
    return keep(family<prometheus::Histogram>(prometheus::BuildHistogram(), name, help), labels, edges);
}

prometheus::Counter& SeriesLease::counter(const std::string& name, const std::string& help,
                                          const Metrics::Labels& labels) {
    const std::scoped_lock lock(metrics_.mutex_);
    return metrics_.lend(held_, metrics_.family<prometheus::Counter>(prometheus::BuildCounter(), name, help), labels);
}

prometheus::Gauge& SeriesLease::gauge(const std::string& name, const std::string& help, const Metrics::Labels& labels) {
    const std::scoped_lock lock(metrics_.mutex_);
    return metrics_.lend(held_, metrics_.family<prometheus::Gauge>(prometheus::BuildGauge(), name, help), labels);
}

prometheus::Histogram& SeriesLease::histogram(const std::string& name, const std::string& help,
                                              const std::vector<double>& edges, const Metrics::Labels& labels) {
    const std::scoped_lock lock(metrics_.mutex_);
    return metrics_.lend(held_, metrics_.family<prometheus::Histogram>(prometheus::BuildHistogram(), name, help),
                         labels, edges);
}

void SeriesLease::end() {
    metrics_.give_back(held_);
    held_.clear();
}

std::string Metrics::text() const {
    std::ostringstream out;
    prometheus::TextSerializer().Serialize(out, registry_->Collect());
    return out.str() + process_text();
}

const std::vector<double>& ttft_edges() {
    static const std::vector<double> edges = {.001, .0025, .005, .01, .02, .04, .06, .08, .1, .15, .25,
                                              .5,   .75,   1,    2.5, 5,   7.5, 10,  20,  40, 80,  160};
    return edges;
}

const std::vector<double>& tpot_edges() {
    static const std::vector<double> edges = {.0005, .001, .0025, .005, .0075, .01, .015, .025, .04, .05,
                                              .075,  .1,   .15,   .2,   .3,    .5,  1,    2.5,  10};
    return edges;
}

const std::vector<double>& decision_edges() {
    static const std::vector<double> edges = {5e-6,   10e-6, 25e-6, 50e-6, 100e-6, 250e-6,
                                              500e-6, .001,  .0025, .005,  .01,    .05};
    return edges;
}

}  // namespace base
