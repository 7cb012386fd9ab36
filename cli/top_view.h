#pragma once

#include <boost/json.hpp>
#include <cstddef>
#include <string>
#include <vector>

#include "base/clock.h"
#include "cli/metrics_text.h"

namespace cli {

/// What one process told at one moment.
struct TopSource {
    std::string url;
    std::vector<Sample> samples;
    std::string problem;  // why it told nothing; empty where it did
};
struct TopMoment {
    base::TimePoint at;
    double unix_s = 0;
    std::vector<TopSource> sources;
};

/// The cluster between two moments: summary, processes, models, slo, pools, queues, kv, transfers. Rates are over
/// the time between, null where there is no `before`. Attainment is over the requests that ended in between ("window":
/// "interval"), or since the processes began where none did ("start"); burn is the share of bad ones over what the
/// objective allows. Workers of one name in several processes are one row. Pure.
boost::json::object top_view(const TopMoment& now, const TopMoment* before);

/// The same for people: no line is longer than `columns` (>= 40). Pure.
std::string top_text(const boost::json::object& view, std::size_t columns);

}  // namespace cli
