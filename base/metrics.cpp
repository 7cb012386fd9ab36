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

prometheus::Counter& Metrics::counter(const std::string& name, const std::string& help, const Labels& labels) {
    const std::scoped_lock lock(mutex_);
    return family<prometheus::Counter>(prometheus::BuildCounter(), name, help).Add(labels);
}

prometheus::Gauge& Metrics::gauge(const std::string& name, const std::string& help, const Labels& labels) {
    const std::scoped_lock lock(mutex_);
    return family<prometheus::Gauge>(prometheus::BuildGauge(), name, help).Add(labels);
}

prometheus::Histogram& Metrics::histogram(const std::string& name, const std::string& help,
                                          const std::vector<double>& edges, const Labels& labels) {
    const std::scoped_lock lock(mutex_);
    return family<prometheus::Histogram>(prometheus::BuildHistogram(), name, help).Add(labels, edges);
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
