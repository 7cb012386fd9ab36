#include "scheduler/planner/csv.h"

#include "tests/support/catch.h"

using scheduler::planner::Csv;

TEST_CASE("a table is read by the names of its columns", "[scheduler][planner]") {
    const auto csv = Csv::parse("layer,tokens,time_us\r\nqkv,1,2.5\nqkv,2,3e1\n\n", "t");
    REQUIRE(csv);
    REQUIRE(csv->rows() == 2);
    const auto columns = csv->columns({"time_us", "tokens"});
    REQUIRE(columns);
    REQUIRE(*csv->numbers(1, *columns) == std::vector<double>{30, 2});
    REQUIRE(csv->text(0, *csv->column("layer")) == "qkv");
    REQUIRE(csv->has("tokens"));
    REQUIRE_FALSE(csv->has("token"));
}

TEST_CASE("what is wrong with a table is told with its place", "[scheduler][planner]") {
    REQUIRE(Csv::parse("", "x.csv").error().message.find("x.csv: no header row") == 0);
    REQUIRE(Csv::parse("a,b\n1\n", "x.csv").error().message == "x.csv, line 2: 1 fields where the header has 2");
    const auto csv = Csv::parse("a,b\n1,-2\n,nan\n", "x.csv");
    REQUIRE(csv);
    REQUIRE(csv->column("c").error().message == "x.csv: no column `c`; there are a, b");
    REQUIRE_FALSE(csv->number(0, 1));
    REQUIRE_FALSE(csv->number(1, 0));
    REQUIRE_FALSE(csv->number(1, 1));
}
