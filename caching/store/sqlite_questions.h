#pragma once

#include "caching/semantic/saved_question.h"
#include "caching/store/sqlite_statement.h"

namespace caching {

// The table of questions with similar ones: for SqliteStore.
inline constexpr char kQuestionTables[] =
    "CREATE TABLE IF NOT EXISTS questions (exact BLOB PRIMARY KEY, part BLOB NOT NULL, tenant TEXT NOT NULL,"
    " category TEXT NOT NULL, embedder TEXT NOT NULL, revision TEXT NOT NULL, tags TEXT NOT NULL,"
    " meaning INTEGER NOT NULL, created_us INTEGER NOT NULL, ttl_us INTEGER NOT NULL, saved_s REAL NOT NULL,"
    " profile BLOB NOT NULL, scale REAL NOT NULL, vector BLOB NOT NULL, document BLOB NOT NULL);"
    "CREATE INDEX IF NOT EXISTS questions_by_age ON questions (created_us);"
    "CREATE TABLE IF NOT EXISTS learning (id INTEGER PRIMARY KEY CHECK (id = 1), bytes BLOB NOT NULL);";
inline constexpr char kPutQuestion[] =
    "INSERT OR REPLACE INTO questions VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)";
inline constexpr char kEraseQuestion[] = "DELETE FROM questions WHERE exact = ?1";
inline constexpr char kAllQuestions[] =
    "SELECT exact, part, tenant, category, embedder, revision, tags, meaning, created_us, ttl_us, saved_s, profile,"
    " scale, vector, document FROM questions ORDER BY created_us DESC";
inline constexpr char kPutLearning[] = "INSERT OR REPLACE INTO learning VALUES (1, ?1)";
inline constexpr char kLearning[] = "SELECT bytes FROM learning WHERE id = 1";

/// Into a statement of kPutQuestion. False: the file's fault.
bool put_question(SqliteStatement& statement, const SavedQuestion& one);
/// The row of kAllQuestions that the statement is at. False for what is not whole.
bool read_question(SqliteStatement& statement, SavedQuestion& one);

}  // namespace caching
