#include "caching/store/sqlite_store.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "caching/store/sqlite_examples.h"
#include "caching/store/sqlite_questions.h"
#include "caching/store/sqlite_statement.h"

namespace caching {
namespace {

using base::ErrorCode;
using Statement = SqliteStatement;

constexpr int kForm = 1;  // of the tables; another one is not read
constexpr char kTables[] =
    "CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, tenant TEXT NOT NULL, model TEXT NOT NULL,"
    " revision TEXT NOT NULL, tags TEXT NOT NULL, created_us INTEGER NOT NULL, expires_us INTEGER NOT NULL,"
    " saved_s REAL NOT NULL, is_cut INTEGER NOT NULL, stop_string BLOB, stop_token INTEGER,"
    " prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,"
    " text BLOB NOT NULL, reasoning_tokens INTEGER NOT NULL DEFAULT 0);"
    "CREATE INDEX IF NOT EXISTS answers_by_age ON answers (created_us);";
constexpr char kPut[] =
    "INSERT OR REPLACE INTO answers VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16)";
// Files that were made before there was the column.
constexpr char kHasReasoning[] = "SELECT count(*) FROM pragma_table_info('answers') WHERE name = 'reasoning_tokens'";
constexpr char kAddReasoning[] = "ALTER TABLE answers ADD COLUMN reasoning_tokens INTEGER NOT NULL DEFAULT 0";
constexpr char kErase[] = "DELETE FROM answers WHERE key = ?1";
constexpr char kAll[] =
    "SELECT key, tenant, model, revision, tags, created_us, expires_us, saved_s, is_cut, stop_string, stop_token,"
    " prompt_tokens, cached_tokens, completion_tokens, text, reasoning_tokens FROM answers ORDER BY created_us DESC";

std::uint32_t count_of(std::int64_t value) {
    return value < 0 || value > 0xffffffff ? 0 : static_cast<std::uint32_t>(value);
}

bool put(Statement& statement, const SavedAnswer& one) {
    statement.key(1, one.key);
    statement.text(2, one.tenant);
    statement.text(3, one.model);
    statement.text(4, one.revision);
    statement.tags(5, one.tags);
    statement.integer(6, one.created_unix_us);
    statement.integer(7, one.expires_unix_us);
    statement.real(8, one.saved_s);
    statement.integer(9, one.answer.is_cut ? 1 : 0);
    one.answer.stop_string ? statement.blob(10, *one.answer.stop_string) : statement.null(10);
    one.answer.stop_token ? statement.integer(11, *one.answer.stop_token) : statement.null(11);
    statement.integer(12, one.answer.prompt_tokens);
    statement.integer(13, one.answer.cached_tokens);
    statement.integer(14, one.answer.completion_tokens);
    statement.blob(15, one.answer.text);
    statement.integer(16, one.answer.reasoning_tokens);
    return statement.run();
}

/// What each kind of change does to the file. False: the file's fault.
class Statements {
public:
    explicit Statements(sqlite3* database)
        : put_(database, kPut),
          erase_(database, kErase),
          put_question_(database, kPutQuestion),
          erase_question_(database, kEraseQuestion),
          put_learning_(database, kPutLearning),
          put_example_(database, kPutExample),
          put_standing_(database, kPutStanding),
          erase_example_(database, kEraseExample),
          put_example_learning_(database, kPutExampleLearning) {}

    bool operator()(const SavedAnswer& answer) { return put_.is_ready() && put(put_, answer); }
    bool operator()(const ErasedAnswers& gone) { return erase(erase_, gone.keys); }
    bool operator()(const SavedQuestion& question) {
        return put_question_.is_ready() && put_question(put_question_, question);
    }
    bool operator()(const ErasedQuestions& gone) { return erase(erase_question_, gone.keys); }
    bool operator()(const SavedLearning& learning) { return put_bytes(put_learning_, learning.bytes); }
    bool operator()(const SavedExampleLearning& learning) { return put_bytes(put_example_learning_, learning.bytes); }
    bool operator()(const SavedExample& example) {
        return put_example_.is_ready() && put_example(put_example_, example);
    }
    bool operator()(const ErasedExamples& gone) { return erase(erase_example_, gone.keys); }
    bool operator()(const ExampleStandings& standings) {
        return put_standing_.is_ready() &&
               std::all_of(standings.all.begin(), standings.all.end(),
                           [&](const ExampleStanding& one) { return put_standing(put_standing_, one); });
    }

private:
    static bool put_bytes(Statement& statement, const std::string& bytes) {
        if (!statement.is_ready()) { return false; }
        statement.blob(1, bytes);
        return statement.run();
    }
    static bool erase(Statement& statement, const std::vector<base::BlockHash>& keys) {
        return statement.is_ready() && std::all_of(keys.begin(), keys.end(), [&](const base::BlockHash& key) {
                   statement.key(1, key);
                   return statement.run();
               });
    }

    Statement put_;
    Statement erase_;
    Statement put_question_;
    Statement erase_question_;
    Statement put_learning_;
    Statement put_example_;
    Statement put_standing_;
    Statement erase_example_;
    Statement put_example_learning_;
};

}  // namespace

base::Result<std::unique_ptr<SqliteStore>> SqliteStore::open(const std::string& path) {
    auto store = std::unique_ptr<SqliteStore>(new SqliteStore(path));
    if (auto connected = store->connect(); !connected) { return base::pass_on(connected); }
    return store;
}

base::Result<void> SqliteStore::connect() {
    auto file = SqliteFile::open("the cache's store", path_, kForm, std::string(kTables) + kQuestionTables);
    if (!file) { return base::pass_on(file); }
    bool is_older = false;
    {
        Statement column((*file)->database(), kHasReasoning);
        is_older = column.is_ready() && column.step() == SQLITE_ROW && column.integer_of(0) == 0;
    }
    if (is_older) {
        if (auto added = (*file)->run(kAddReasoning); !added) { return added; }
    }
    if (auto made = make_example_table(**file); !made) { return made; }
    file_ = std::move(*file);
    return {};
}

base::Result<base::HashKey> SqliteStore::hash_key() {
    if (!file_) { return base::fail(ErrorCode::unavailable, "the cache's store is lost"); }
    {
        Statement make(file_->database(), "INSERT OR IGNORE INTO about VALUES ('hash_key', ?1)");
        if (!make.is_ready()) { return tl::unexpected(file_->failed("about")); }
        make.text(1, base::format_hash_key(base::random_hash_key()));
        if (!make.run()) { return tl::unexpected(file_->failed("about")); }
    }
    Statement read(file_->database(), "SELECT value FROM about WHERE name = 'hash_key'");
    if (!read.is_ready() || read.step() != SQLITE_ROW) { return tl::unexpected(file_->failed("hash_key")); }
    return base::parse_hash_key(read.bytes_of(0));
}

base::Result<void> SqliteStore::load(const std::function<bool(SavedAnswer)>& visit) {
    if (!file_) { return base::fail(ErrorCode::unavailable, "the cache's store is lost"); }
    Statement all(file_->database(), kAll);
    if (!all.is_ready()) { return tl::unexpected(file_->failed("load")); }
    int code = all.step();
    for (; code == SQLITE_ROW; code = all.step()) {
        SavedAnswer one;
        if (!all.key_of(0, one.key)) { continue; }
        one.tenant = all.bytes_of(1);
        one.model = all.bytes_of(2);
        one.revision = all.bytes_of(3);
        one.tags = all.tags_of(4);
        one.created_unix_us = all.integer_of(5);
        one.expires_unix_us = all.integer_of(6);
        one.saved_s = all.real_of(7);
        one.answer.is_cut = all.integer_of(8) != 0;
        if (!all.is_null(9)) { one.answer.stop_string = all.bytes_of(9); }
        if (!all.is_null(10)) { one.answer.stop_token = static_cast<base::TokenId>(all.integer_of(10)); }
        one.answer.prompt_tokens = count_of(all.integer_of(11));
        one.answer.cached_tokens = count_of(all.integer_of(12));
        one.answer.completion_tokens = count_of(all.integer_of(13));
        one.answer.text = all.bytes_of(14);
        one.answer.reasoning_tokens = count_of(all.integer_of(15));
        if (!visit(std::move(one))) { return {}; }
    }
    if (code != SQLITE_DONE) { return tl::unexpected(file_->failed("load")); }
    return {};
}

base::Result<void> SqliteStore::load_questions(const std::function<bool(SavedQuestion)>& visit) {
    if (!file_) { return base::fail(ErrorCode::unavailable, "the cache's store is lost"); }
    Statement all(file_->database(), kAllQuestions);
    if (!all.is_ready()) { return tl::unexpected(file_->failed("load questions")); }
    int code = all.step();
    for (; code == SQLITE_ROW; code = all.step()) {
        SavedQuestion one;
        if (!read_question(all, one)) { continue; }
        if (!visit(std::move(one))) { return {}; }
    }
    if (code != SQLITE_DONE) { return tl::unexpected(file_->failed("load questions")); }
    return {};
}

base::Result<void> SqliteStore::load_examples(const std::function<bool(SavedExample)>& visit) {
    if (!file_) { return base::fail(ErrorCode::unavailable, "the cache's store is lost"); }
    Statement all(file_->database(), kAllExamples);
    if (!all.is_ready()) { return tl::unexpected(file_->failed("load examples")); }
    int code = all.step();
    for (; code == SQLITE_ROW; code = all.step()) {
        SavedExample one;
        if (!read_example(all, one)) { continue; }
        if (!visit(std::move(one))) { return {}; }
    }
    if (code != SQLITE_DONE) { return tl::unexpected(file_->failed("load examples")); }
    return {};
}

base::Result<std::string> SqliteStore::bytes_by(const char* query) {
    if (!file_) { return base::fail(ErrorCode::unavailable, "the cache's store is lost"); }
    Statement read(file_->database(), query);
    if (!read.is_ready()) { return tl::unexpected(file_->failed("learning")); }
    const int code = read.step();
    if (code == SQLITE_DONE) { return std::string(); }
    if (code != SQLITE_ROW) { return tl::unexpected(file_->failed("learning")); }
    return read.bytes_of(0);
}

base::Result<std::string> SqliteStore::learning() {
    return bytes_by(kLearning);
}

base::Result<std::string> SqliteStore::example_learning() {
    return bytes_by(kExampleLearning);
}

base::Result<void> SqliteStore::apply(const std::vector<StoreChange>& changes) {
    if (!file_) {
        if (auto connected = connect(); !connected) { return connected; }
    }
    auto written = write(changes);
    if (!written) { file_.reset(); }  // rolls back; the next batch begins anew
    return written;
}

base::Result<void> SqliteStore::write(const std::vector<StoreChange>& changes) {
    if (auto begun = file_->run("BEGIN IMMEDIATE"); !begun) { return begun; }
    {
        Statements statements(file_->database());
        for (const StoreChange& change : changes) {
            if (!std::visit(statements, change)) { return tl::unexpected(file_->failed("write")); }
        }
    }
    return file_->run("COMMIT");
}

}  // namespace caching
