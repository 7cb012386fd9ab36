#include "caching/store/sqlite_examples.h"

#include <string>

namespace caching {
namespace {

constexpr std::string_view kForm = "1";  // of the table; another one is not read
constexpr char kTable[] =
    "CREATE TABLE IF NOT EXISTS examples (exact BLOB PRIMARY KEY, value REAL NOT NULL, valued_us INTEGER NOT NULL,"
    " gain REAL NOT NULL, uses INTEGER NOT NULL, record REAL NOT NULL, record_uses REAL NOT NULL,"
    " replays INTEGER NOT NULL, quality REAL NOT NULL, part BLOB NOT NULL, tenant TEXT NOT NULL,"
    " question BLOB NOT NULL, answer BLOB NOT NULL, revision TEXT NOT NULL, tags TEXT NOT NULL,"
    " created_us INTEGER NOT NULL, seal BLOB NOT NULL);"
    "CREATE INDEX IF NOT EXISTS examples_by_age ON examples (created_us);"
    "CREATE TABLE IF NOT EXISTS example_learning (id INTEGER PRIMARY KEY CHECK (id = 1), bytes BLOB NOT NULL);";

void bind_standing(SqliteStatement& statement, const ExampleStanding& one) {
    statement.key(1, one.exact);
    statement.real(2, one.value);
    statement.integer(3, one.valued_unix_us);
    statement.real(4, one.gain);
    statement.integer(5, static_cast<std::int64_t>(one.uses));
    statement.real(6, one.record);
    statement.real(7, one.record_uses);
    statement.integer(8, one.replays);
    statement.real(9, one.answer_quality);
}

}  // namespace

base::Result<void> make_example_table(SqliteFile& file) {
    std::string found;
    {
        SqliteStatement form(file.database(), "SELECT value FROM about WHERE name = 'examples_form'");
        if (!form.is_ready()) { return tl::unexpected(file.failed("examples_form")); }
        if (form.step() == SQLITE_ROW) { found = form.bytes_of(0); }
    }
    if (found == kForm) { return file.run(kTable); }
    if (auto gone = file.run("DROP TABLE IF EXISTS examples"); !gone) { return gone; }
    if (auto made = file.run(kTable); !made) { return made; }
    return file.run("INSERT OR REPLACE INTO about VALUES ('examples_form', '" + std::string(kForm) + "')");
}

bool put_example(SqliteStatement& statement, const SavedExample& one) {
    bind_standing(statement, one.standing);
    statement.key(10, one.partition);
    statement.text(11, one.tenant);
    statement.blob(12, one.question);
    statement.blob(13, one.answer);
    statement.text(14, one.revision);
    statement.tags(15, one.tags);
    statement.integer(16, one.created_unix_us);
    statement.key(17, one.seal);
    return statement.run();
}

bool put_standing(SqliteStatement& statement, const ExampleStanding& one) {
    bind_standing(statement, one);
    return statement.run();
}

bool read_example(SqliteStatement& statement, SavedExample& one) {
    if (!statement.key_of(0, one.standing.exact) || !statement.key_of(9, one.partition) ||
        !statement.key_of(16, one.seal)) {
        return false;
    }
    one.standing.value = statement.real_of(1);
    one.standing.valued_unix_us = statement.integer_of(2);
    one.standing.gain = statement.real_of(3);
    one.standing.uses = static_cast<std::uint64_t>(statement.integer_of(4));
    one.standing.record = statement.real_of(5);
    one.standing.record_uses = statement.real_of(6);
    one.standing.replays = static_cast<std::uint32_t>(statement.integer_of(7));
    one.standing.answer_quality = statement.real_of(8);
    one.tenant = statement.bytes_of(10);
    one.question = statement.bytes_of(11);
    one.answer = statement.bytes_of(12);
    one.revision = statement.bytes_of(13);
    one.tags = statement.tags_of(14);
    one.created_unix_us = statement.integer_of(15);
    return true;
}

}  // namespace caching
