// `sluice top`: what is made of /metrics, without processes.
#include <algorithm>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "cli/metrics_text.h"
#include "cli/top_look.h"
#include "cli/top_view.h"

#include "tests/support/catch.h"

using cli::parse_metrics;
using cli::TopMoment;

namespace {

TopMoment moment(double seconds, const std::vector<std::string>& texts) {
    TopMoment made;
    made.at = base::TimePoint() + std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(seconds));
    made.unix_s = 1'000'000 + seconds;
    for (std::size_t i = 0; i < texts.size(); ++i) {
        auto samples = parse_metrics(texts[i]);
        if (!samples) { FAIL(samples.error().message); }
        made.sources.push_back(
            {.url = "http://host:" + std::to_string(i), .samples = std::move(*samples), .problem = {}});
    }
    return made;
}

std::string gateway(int good, int bad, int requests) {
    std::ostringstream text;
    text << "sluice_gateway_inflight_requests{model=\"m\"} 3\n"
         << "sluice_gateway_requests_total{model=\"m\",code=\"200\"} " << requests << "\n"
         << "sluice_gateway_slo_requests_total{model=\"m\",slo_class=\"default\",slo=\"ttft\",outcome=\"good\"} "
         << good
         << "\nsluice_gateway_slo_requests_total{model=\"m\",slo_class=\"default\",slo=\"ttft\",outcome=\"bad\"} "
         << bad << "\nsluice_build_info{version=\"1.2.3\"} 1\nprocess_cpu_seconds_total " << requests / 10.0 << "\n";
    return text.str();
}

const std::string kWorkers =
    "sluice_worker_requests_running{model=\"m\",role=\"decode\",worker=\"decode-0\"} 2\n"
    "sluice_worker_kv_blocks{state=\"used\",worker=\"decode-0\"} 30\n"
    "sluice_worker_kv_blocks{state=\"free\",worker=\"decode-0\"} 10\n"
    "sluice_kv_tier_blocks{tier=\"host\",worker=\"decode-0\",state=\"cached\"} 7\n"
    "sluice_scheduler_leads 0\n"
    "sluice_scheduler_workers{model=\"m\",role=\"decode\",state=\"ready\"} 1\n"
    "sluice_scheduler_queue_requests{model=\"m\",stage=\"decode\"} 4\n"
    "sluice_kv_transfer_bytes_total{direction=\"send\",transport=\"ucx\",codec=\"raw\"} 2048\n";

}  // namespace

TEST_CASE("Prometheus' text is read: labels with escapes, special values, time stamps", "[cli][top]") {
    const auto samples =
        parse_metrics("# HELP a b\na 1\nb{x=\"q\\\"\\\\\\n\",y=\"\"} 2.5e3 1700000000\r\n\nc{} +Inf\nd NaN\n");
    REQUIRE(samples.has_value());
    REQUIRE(samples->size() == 4u);
    REQUIRE((*samples)[1].label("x") == "q\"\\\n");
    REQUIRE((*samples)[1].value == 2500);
    for (const char* bad : {"a", "a{x=1} 2", "a{x=\"1} 2", "{x=\"1\"} 2", "a{x=\"1\" 2", "<html>", "a one"}) {
        CAPTURE(bad);
        const auto refused = parse_metrics("fine 1\n" + std::string(bad));
        REQUIRE_FALSE(refused.has_value());
        REQUIRE(refused.error().message.find("line 2") != std::string::npos);
    }
}

TEST_CASE("rates, attainment and burn are of what came between two looks", "[cli][top]") {
    const TopMoment before = moment(0, {gateway(100, 0, 100), kWorkers});
    const TopMoment now = moment(2, {gateway(109, 1, 110), kWorkers});
    const auto view = cli::top_view(now, &before);
    const auto& model = view.at("models").at(0).as_object();
    REQUIRE(model.at("requests_per_s").to_number<double>() == Approx(5));
    REQUIRE(model.at("running").to_number<double>() == Approx(3));
    const auto& slo = view.at("slo").at(0).as_object();
    REQUIRE(slo.at("window").as_string() == "interval");
    REQUIRE(slo.at("attainment").to_number<double>() == Approx(0.9));
    REQUIRE(slo.at("burn").to_number<double>() == Approx(2));  // 10 % missed, 5 % allowed
    REQUIRE(view.at("processes").at(0).at("cpu_cores").to_number<double>() == Approx(0.5));
    REQUIRE(view.at("processes").at(0).at("version").as_string() == "1.2.3");
    REQUIRE(view.at("processes").at(1).at("leads").as_bool() == false);
    REQUIRE(view.at("kv").as_array().size() == 2u);
    REQUIRE(view.at("kv").at(1).at("in_use_ratio").to_number<double>() == Approx(0.75));  // of the pool: after "host"
    const auto& summary = view.at("summary").as_object();
    REQUIRE(summary.at("processes_up").to_number<int>() == 2);
    REQUIRE(summary.at("requests_running").to_number<int>() == 3);
    REQUIRE(summary.at("requests_queued").to_number<int>() == 4);
    REQUIRE(summary.at("burn_max").to_number<double>() == Approx(2));
    REQUIRE(view.at("pools").at(0).at("ready").to_number<double>() == Approx(1));
    REQUIRE(view.at("transfers").at(0).at("sent_bytes_per_s").to_number<double>() == Approx(0));
}

TEST_CASE("a class burns by its own aim, the strictest that a gateway has, and its availability by everybody's",
          "[cli][top]") {
    const auto rows = [](const char* slo, int good, int bad) {
        const std::string name =
            std::string("sluice_gateway_slo_requests_total{model=\"m\",slo_class=\"strict\",slo=\"") + slo +
            "\",outcome=\"";
        return name + "good\"} " + std::to_string(good) + "\n" + name + "bad\"} " + std::to_string(bad) + "\n";
    };
    const auto burns = [](const TopMoment& now) {
        std::map<std::string, double> found;
        const auto view = cli::top_view(now, nullptr);
        for (const auto& row : view.at("slo").as_array()) {
            found[std::string(row.at("slo").as_string())] = row.at("burn").to_number<double>();
        }
        return found;
    };
    const std::string counts = rows("all", 98, 2) + rows("tpot", 98, 2) + rows("availability", 998, 2);
    const auto without = burns(moment(2, {counts}));
    REQUIRE(without.at("all") == Approx(0.2));
    REQUIRE(without.at("tpot") == Approx(0.4));
    REQUIRE(without.at("availability") == Approx(2));
    const auto with = burns(moment(2, {counts + "sluice_gateway_slo_objective_ratio{slo_class=\"strict\"} 0.9\n",
                                       "sluice_gateway_slo_objective_ratio{slo_class=\"strict\"} 0.99\n"
                                       "sluice_gateway_slo_objective_ratio{slo_class=\"other\"} 1\n"}));
    REQUIRE(with.at("all") == Approx(2));
    REQUIRE(with.at("tpot") == Approx(2));
    REQUIRE(with.at("availability") == Approx(2));
    const auto none_allowed =
        burns(moment(2, {counts + "sluice_gateway_slo_objective_ratio{slo_class=\"strict\"} 1\n"}));
    REQUIRE(none_allowed.at("all") == Approx(20));  // as if one in a thousand were
}

TEST_CASE("where nothing ended in between, attainment is since the begin; a first look has no rates", "[cli][top]") {
    const TopMoment now = moment(2, {gateway(3, 1, 4)});
    const auto quiet = cli::top_view(now, &now);
    REQUIRE(quiet.at("slo").at(0).at("window").as_string() == "start");
    REQUIRE(quiet.at("slo").at(0).at("attainment").to_number<double>() == Approx(0.75));
    const auto first = cli::top_view(now, nullptr);
    REQUIRE(first.at("interval_s").is_null());
    REQUIRE(first.at("models").at(0).at("requests_per_s").is_null());
    const TopMoment fuller = moment(0, {gateway(300, 0, 300)});  // the process began anew since
    REQUIRE(cli::top_view(now, &fuller).at("models").at(0).at("requests_per_s").to_number<double>() == Approx(2));
}

TEST_CASE("the page keeps to the width of the terminal, and to what a peer's names may not do to it", "[cli][top]") {
    const auto columns = GENERATE(40u, 80u, 200u);
    TopMoment now =
        moment(2, {gateway(3, 1, 4), kWorkers,
                   "sluice_gateway_inflight_requests{model=\"\x1b[2Jlong-long-long-long-long-long-name\"} 1\n"});
    now.sources.push_back({.url = "http://gone:1", .samples = {}, .problem = "cannot connect"});
    const std::string text = cli::top_text(cli::top_view(now, &now), columns);
    INFO(text);
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        REQUIRE(line.size() <= columns);
        REQUIRE(std::all_of(line.begin(), line.end(), [](char c) { return c >= 0x20 && c < 0x7f; }));
    }
    for (const char* word : {"3 processes, 1 not reached", "DOWN", "KV BLOCKS", "decode-0", "TARGETS", "QUEUE"}) {
        if (columns >= 80) { REQUIRE(text.find(word) != std::string::npos); }
    }
    REQUIRE(cli::top_text(boost::json::object(), 80).find("0 processes") != std::string::npos);
}

TEST_CASE("a range of ports is several processes", "[cli][top]") {
    const auto urls = cli::expand_urls({"http://127.0.0.1:8000", "http://my-host:9100-9102", "http://my-host"});
    REQUIRE(urls.has_value());
    REQUIRE(urls->size() == 5u);
    REQUIRE((*urls)[3] == "http://my-host:9102");
    for (const char* bad : {"http://a:5-4", "http://a:1-x", "https://a:1", "a:1", "http://a:1-60000"}) {
        CAPTURE(bad);
        REQUIRE_FALSE(cli::expand_urls({bad}).has_value());
    }
}
