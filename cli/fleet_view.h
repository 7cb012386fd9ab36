#pragma once

#include <boost/json.hpp>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "proto/scheduler.pb.h"
#include "proto/version.h"

namespace cli {

/// What was seen at one look: what `sluice top` shows, and what the scheduler that leads tells of every worker.
struct FleetMoment {
    double unix_s = 0;
    boost::json::object view;                    // top_view()
    std::string scheduler_problem = {};          // why nothing new is known of workers; empty: `roster` is of this look
    std::optional<proto::DescribeReply> roster;  // the last one; empty: there has been none
    double roster_unix_s = 0;
};

/// Something that became different between two looks.
struct FleetChange {
    double unix_s = 0;
    std::string what;  // "worker", "process", "model", "scheduler"
    std::string name;
    std::string text;
};

/// What became different: workers that came, went, or changed their state or life; processes that are reached no more,
/// or again, or are of another version; models that became ready, or no longer are; the scheduler, or who leads. At
/// most `max`, of which the last says how many more there were. Pure. O(workers log workers).
std::vector<FleetChange> fleet_changes(const FleetMoment& before, const FleetMoment& now, std::size_t max);

struct FleetQuery {
    std::string words;           // each of them stands in every worker that is told; empty: all are
    std::size_t rows_max = 200;  // workers that are told
};
inline constexpr std::size_t kFleetRowsMax = 1000;
/// Rows of each list of top_view() that are told.
inline constexpr std::size_t kFleetViewRowsMax = 500;

/// For the page: what top_view() says (long lists cut, `left_off` says by how many rows), `scheduler`, `served` (models
/// and whether they are ready), `workers` (`rows`: those that the words are about, who needs attention first; `total`,
/// `matching` and `states`: how many) and `changes`, as they are given. Pure. O(workers log rows).
boost::json::object fleet_json(const FleetMoment& now, const std::vector<FleetChange>& changes,
                               const FleetQuery& query);

}  // namespace cli
