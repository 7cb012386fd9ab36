#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"

struct sqlite3;

namespace caching {

/// An open SQLite file with a write-ahead log: what a transaction has changed is in it whole or not at all, also after
/// a kill. One thread at a time.
class SqliteFile {
public:
    /// `what` it is, in errors ("the cache's store"); `form` of its tables; `tables`: SQL that makes those that are
    /// missing. Opens or makes the file, readable by its owner only. Errors: unavailable with SQLite's words, data_loss
    /// for a file that is no database or of another form.
    static base::Result<std::unique_ptr<SqliteFile>> open(std::string what, const std::string& path, int form,
                                                          const std::string& tables);
    ~SqliteFile();
    SqliteFile(const SqliteFile&) = delete;
    SqliteFile& operator=(const SqliteFile&) = delete;

    sqlite3* database() const { return database_; }
    base::Result<void> run(const std::string& sql);
    /// The latest error of the database, at `doing`.
    base::Error failed(std::string_view doing) const;

private:
    SqliteFile(std::string what, std::string path) : what_(std::move(what)), path_(std::move(path)) {}
    base::Result<void> connect(int form, const std::string& tables);

    const std::string what_;
    const std::string path_;
    sqlite3* database_ = nullptr;
};

}  // namespace caching
