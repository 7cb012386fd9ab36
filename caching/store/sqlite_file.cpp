#include "caching/store/sqlite_file.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "caching/store/sqlite_statement.h"

namespace caching {
namespace {

using base::ErrorCode;

constexpr int kBusyMs = 2000;  // for another process's transaction

}  // namespace

base::Result<std::unique_ptr<SqliteFile>> SqliteFile::open(std::string what, const std::string& path, int form,
                                                           const std::string& tables) {
    auto file = std::unique_ptr<SqliteFile>(new SqliteFile(std::move(what), path));
    if (auto connected = file->connect(form, tables); !connected) { return base::pass_on(connected); }
    return file;
}

SqliteFile::~SqliteFile() {
    sqlite3_close(database_);
}

base::Error SqliteFile::failed(std::string_view doing) const {
    const int code = database_ != nullptr ? sqlite3_errcode(database_) : SQLITE_NOMEM;
    const bool is_broken = code == SQLITE_NOTADB || code == SQLITE_CORRUPT;
    return {is_broken ? ErrorCode::data_loss : ErrorCode::unavailable,
            what_ + " " + path_ + ": " + std::string(doing) + ": " +
                (database_ != nullptr ? sqlite3_errmsg(database_) : "out of memory")};
}

base::Result<void> SqliteFile::run(const std::string& sql) {
    if (sqlite3_exec(database_, sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) {
        return tl::unexpected(failed(sql.substr(0, sql.find(';'))));
    }
    return {};
}

base::Result<void> SqliteFile::connect(int form, const std::string& tables) {
    // Made by us first: SQLite's own files get the rights of this one.
    const int file = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) {
        return base::fail(ErrorCode::unavailable, what_ + " " + path_ + " cannot be opened: " + std::strerror(errno));
    }
    ::close(file);
    if (sqlite3_open_v2(path_.c_str(), &database_, SQLITE_OPEN_READWRITE, nullptr) != SQLITE_OK) {
        return tl::unexpected(failed("open"));
    }
    sqlite3_busy_timeout(database_, kBusyMs);
    for (const char* sql : {"PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", "PRAGMA trusted_schema=OFF"}) {
        if (auto done = run(sql); !done) { return done; }
    }
    std::int64_t found = 0;
    {
        SqliteStatement version(database_, "PRAGMA user_version");
        if (!version.is_ready() || version.step() != SQLITE_ROW) { return tl::unexpected(failed("user_version")); }
        found = version.integer_of(0);
    }
    if (found != 0 && found != form) {
        return base::fail(ErrorCode::data_loss, what_ + " " + path_ + " is of form " + std::to_string(found) +
                                                    ", this version reads form " + std::to_string(form) +
                                                    ": name another file, or remove this one");
    }
    if (auto made = run(tables); !made) { return made; }
    return run("PRAGMA user_version=" + std::to_string(form));
}

}  // namespace caching
