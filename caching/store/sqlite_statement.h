#pragma once

#include <sqlite3.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/block_hash.h"

namespace caching {

/// A prepared statement of SQLite, null where the file is not as it should be. Columns are from 0, parameters from 1.
class SqliteStatement {
public:
    SqliteStatement(sqlite3* database, const char* sql) {
        if (sqlite3_prepare_v2(database, sql, -1, &statement_, nullptr) != SQLITE_OK) { statement_ = nullptr; }
    }
    ~SqliteStatement() { sqlite3_finalize(statement_); }
    SqliteStatement(const SqliteStatement&) = delete;
    SqliteStatement& operator=(const SqliteStatement&) = delete;

    bool is_ready() const { return statement_ != nullptr; }
    void text(int at, std::string_view value) {
        sqlite3_bind_text64(statement_, at, value.data(), value.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
    }
    void blob(int at, std::string_view value) {
        // A null pointer would bind NULL.
        sqlite3_bind_blob64(statement_, at, value.empty() ? "" : value.data(), value.size(), SQLITE_TRANSIENT);
    }
    void key(int at, const base::BlockHash& key) {
        std::string bytes(16, '\0');
        std::memcpy(bytes.data(), &key.high, 8);
        std::memcpy(bytes.data() + 8, &key.low, 8);
        blob(at, bytes);
    }
    void tags(int at, const std::vector<std::string>& tags) {
        std::string lines;
        for (const std::string& tag : tags) {
            lines += tag;
            lines += '\n';
        }
        text(at, lines);
    }
    void integer(int at, std::int64_t value) { sqlite3_bind_int64(statement_, at, value); }
    void real(int at, double value) { sqlite3_bind_double(statement_, at, value); }
    void null(int at) { sqlite3_bind_null(statement_, at); }
    int step() { return sqlite3_step(statement_); }
    bool run() {
        const int code = step();
        sqlite3_reset(statement_);
        return code == SQLITE_DONE;
    }

    std::string bytes_of(int column) {
        const void* data = sqlite3_column_blob(statement_, column);
        const int size = sqlite3_column_bytes(statement_, column);
        return data == nullptr ? std::string()
                               : std::string(static_cast<const char*>(data), static_cast<std::size_t>(size));
    }
    /// False for what is no key.
    bool key_of(int column, base::BlockHash& key) {
        const std::string bytes = bytes_of(column);
        if (bytes.size() != 16) { return false; }
        std::memcpy(&key.high, bytes.data(), 8);
        std::memcpy(&key.low, bytes.data() + 8, 8);
        return true;
    }
    std::vector<std::string> tags_of(int column) {
        const std::string lines = bytes_of(column);
        std::vector<std::string> tags;
        std::string_view left = lines;
        for (std::size_t end = left.find('\n'); end != std::string_view::npos; end = left.find('\n')) {
            tags.emplace_back(left.substr(0, end));
            left.remove_prefix(end + 1);
        }
        return tags;
    }
    std::int64_t integer_of(int column) { return sqlite3_column_int64(statement_, column); }
    double real_of(int column) { return sqlite3_column_double(statement_, column); }
    bool is_null(int column) { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }

private:
    sqlite3_stmt* statement_ = nullptr;
};

}  // namespace caching
