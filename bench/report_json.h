#pragma once

#include <boost/json/object.hpp>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "bench/record.h"
#include "bench/report.h"

namespace bench {

/// The figures; names and units as in Report.
boost::json::object report_json(const Report& report);

/// Every request: times in seconds from the start of the run, `itl_ms` as the list of gaps.
boost::json::array records_json(std::span<const RequestRecord> records);

/// Processor, cores, memory and kernel of this machine: what is needed to read figures later. Fields that cannot be
/// read are left out.
boost::json::object machine_json();

/// The command line of this process as one text.
std::string command_line();

/// What a measurement ends with: `print` for people unless `out_path` is "-", which writes the JSON to standard output;
/// else to the file of that name, if there is one. Exit status: 0; 1 when the file cannot be written, said as
/// `command`.
int tell_figures(const char* command, const std::string& out_path, const boost::json::object& figures,
                 const std::function<void()>& print);

}  // namespace bench
