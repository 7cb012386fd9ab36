#include "caching/store/sqlite_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "caching/store/sqlite_questions.h"
#include "caching/store/sqlite_statement.h"

namespace caching {
namespace {

using base::ErrorCode;
using Statement = SqliteStatement;

constexpr int kForm = 1;  // of the tables; another one is not read
constexpr int kBusyMs = 2000;
constexpr char kTables[] =
    "CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, tenant TEXT NOT NULL, model TEXT NOT NULL,"
    " revision TEXT NOT NULL, tags TEXT NOT NULL, created_us INTEGER NOT NULL, expires_us INTEGER NOT NULL,"
    " saved_s REAL NOT NULL, is_cut INTEGER NOT NULL, stop_string BLOB, stop_token INTEGER,"
    " prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,"
    " text BLOB NOT NULL);"
    "CREATE INDEX IF NOT EXISTS answers_by_age ON answers (created_us);";
constexpr char kPut[] = "INSERT OR REPLACE INTO answers VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)";
constexpr char kErase[] = "DELETE FROM answers WHERE key = ?1";
constexpr char kAll[] =
    "SELECT key, tenant, model, revision, tags, created_us, expires_us, saved_s, is_cut, stop_string, stop_token,"
    " prompt_tokens, cached_tokens, completion_tokens, text FROM answers ORDER BY created_us DESC";

tl::unexpected<base::Error> failed(sqlite3* database, const std::string& path, std::string_view what) {
    const int code = database != nullptr ? sqlite3_errcode(database) : SQLITE_NOMEM;
    const bool is_broken = code == SQLITE_NOTADB || code == SQLITE_CORRUPT;
    return base::fail(is_broken ? ErrorCode::data_loss : ErrorCode::unavailable,
                      "the cache's store " + path + ": " + std::string(what) + ": " +
                          (database != nullptr ? sqlite3_errmsg(database) : "out of memory"));
}

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
          put_learning_(database, kPutLearning) {}

    bool operator()(const SavedAnswer& answer) { return put_.is_ready() && put(put_, answer); }
    bool operator()(const ErasedAnswers& gone) { return erase(erase_, gone.keys); }
    bool operator()(const SavedQuestion& question) {
        return put_question_.is_ready() && put_question(put_question_, question);
    }
    bool operator()(const ErasedQuestions& gone) { return erase(erase_question_, gone.keys); }
    bool operator()(const SavedLearning& learning) {
        if (!put_learning_.is_ready()) { return false; }
        put_learning_.blob(1, learning.bytes);
        return put_learning_.run();
    }

private:
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
};

}  // namespace

base::Result<std::unique_ptr<SqliteStore>> SqliteStore::open(const std::string& path) {
    auto store = std::unique_ptr<SqliteStore>(new SqliteStore(path));
    if (auto connected = store->connect(); !connected) { return base::pass_on(connected); }
    return store;
}

SqliteStore::~SqliteStore() {
    disconnect();
}

void SqliteStore::disconnect() {
    sqlite3_close(database_);
    database_ = nullptr;
}

base::Result<void> SqliteStore::run(const char* sql) {
    if (sqlite3_exec(database_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) { return failed(database_, path_, sql); }
    return {};
}

base::Result<void> SqliteStore::connect() {
    // Made by us first: SQLite's own files get the rights of this one.
    const int file = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) {
        return base::fail(ErrorCode::unavailable,
                          "the cache's store " + path_ + " cannot be opened: " + std::strerror(errno));
    }
    ::close(file);
    const auto give_up = [this](std::string_view what) {
        auto error = failed(database_, path_, what);
        disconnect();
        return error;
    };
    if (sqlite3_open_v2(path_.c_str(), &database_, SQLITE_OPEN_READWRITE, nullptr) != SQLITE_OK) {
        return give_up("open");
    }
    sqlite3_busy_timeout(database_, kBusyMs);
    for (const char* sql : {"PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", "PRAGMA trusted_schema=OFF"}) {
        if (!run(sql)) { return give_up(sql); }
    }
    int form = 0;
    {
        Statement version(database_, "PRAGMA user_version");
        if (!version.is_ready() || version.step() != SQLITE_ROW) { return give_up("user_version"); }
        form = static_cast<int>(version.integer_of(0));
    }
    if (form != 0 && form != kForm) {
        disconnect();
        return base::fail(ErrorCode::data_loss, "the cache's store " + path_ + " is of form " + std::to_string(form) +
                                                    ", this version reads form " + std::to_string(kForm) +
                                                    ": name another file, or remove this one");
    }
    if (!run(kTables) || !run(kQuestionTables) || !run("PRAGMA user_version=1")) { return give_up("tables"); }
    return {};
}

base::Result<base::HashKey> SqliteStore::hash_key() {
    if (database_ == nullptr) { return base::fail(ErrorCode::unavailable, "the cache's store is lost"); }
    {
        Statement make(database_, "INSERT OR IGNORE INTO about VALUES ('hash_key', ?1)");
        if (!make.is_ready()) { return failed(database_, path_, "about"); }
        make.text(1, base::format_hash_key(base::random_hash_key()));
        if (!make.run()) { return failed(database_, path_, "about"); }
    }
    Statement read(database_, "SELECT value FROM about WHERE name = 'hash_key'");
    if (!read.is_ready() || read.step() != SQLITE_ROW) { return failed(database_, path_, "hash_key"); }
    return base::parse_hash_key(read.bytes_of(0));
}

base::Result<void> SqliteStore::load(const std::function<bool(SavedAnswer)>& visit) {
    if (database_ == nullptr) { return base::fail(ErrorCode::unavailable, "the cache's store is lost"); }
    Statement all(database_, kAll);
    if (!all.is_ready()) { return failed(database_, path_, "load"); }
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
        if (!visit(std::move(one))) { return {}; }
    }
    if (code != SQLITE_DONE) { return failed(database_, path_, "load"); }
    return {};
}

base::Result<void> SqliteStore::load_questions(const std::function<bool(SavedQuestion)>& visit) {
    if (database_ == nullptr) { return base::fail(ErrorCode::unavailable, "the cache's store is lost"); }
    Statement all(database_, kAllQuestions);
    if (!all.is_ready()) { return failed(database_, path_, "load questions"); }
    int code = all.step();
    for (; code == SQLITE_ROW; code = all.step()) {
        SavedQuestion one;
        if (!read_question(all, one)) { continue; }
        if (!visit(std::move(one))) { return {}; }
    }
    if (code != SQLITE_DONE) { return failed(database_, path_, "load questions"); }
    return {};
}

base::Result<std::string> SqliteStore::learning() {
    if (database_ == nullptr) { return base::fail(ErrorCode::unavailable, "the cache's store is lost"); }
    Statement read(database_, kLearning);
    if (!read.is_ready()) { return failed(database_, path_, "learning"); }
    const int code = read.step();
    if (code == SQLITE_DONE) { return std::string(); }
    if (code != SQLITE_ROW) { return failed(database_, path_, "learning"); }
    return read.bytes_of(0);
}

base::Result<void> SqliteStore::apply(const std::vector<StoreChange>& changes) {
    if (database_ == nullptr) {
        if (auto connected = connect(); !connected) { return connected; }
    }
    auto written = write(changes);
    if (!written) { disconnect(); }  // rolls back; the next batch begins anew
    return written;
}

base::Result<void> SqliteStore::write(const std::vector<StoreChange>& changes) {
    if (auto begun = run("BEGIN IMMEDIATE"); !begun) { return begun; }
    {
        Statements statements(database_);
        for (const StoreChange& change : changes) {
            if (!std::visit(statements, change)) { return failed(database_, path_, "write"); }
        }
    }
    return run("COMMIT");
}

}  // namespace caching
