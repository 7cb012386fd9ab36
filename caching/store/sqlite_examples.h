#pragma once

#include "caching/in_context/saved_example.h"
#include "caching/store/sqlite_file.h"
#include "caching/store/sqlite_statement.h"

namespace caching {

// The table of examples for a small model: for SqliteStore.
inline constexpr char kPutExample[] =
    "INSERT OR REPLACE INTO examples VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17)";
inline constexpr char kPutStanding[] =
    "UPDATE examples SET value = ?2, valued_us = ?3, gain = ?4, uses = ?5, record = ?6, record_uses = ?7, replays = ?8,"
    " quality = ?9 WHERE exact = ?1";
inline constexpr char kPutExampleLearning[] = "INSERT OR REPLACE INTO example_learning VALUES (1, ?1)";
inline constexpr char kExampleLearning[] = "SELECT bytes FROM example_learning WHERE id = 1";
inline constexpr char kEraseExample[] = "DELETE FROM examples WHERE exact = ?1";
inline constexpr char kAllExamples[] =
    "SELECT exact, value, valued_us, gain, uses, record, record_uses, replays, quality, part, tenant, question, answer,"
    " revision, tags, created_us, seal FROM examples ORDER BY created_us DESC";

/// Makes the tables where they are missing. One of another form, by a version before or after this one, goes with all
/// that is in it.
base::Result<void> make_example_table(SqliteFile& file);
/// Into a statement of kPutExample. False: the file's fault.
bool put_example(SqliteStatement& statement, const SavedExample& one);
/// Into a statement of kPutStanding. An example that is not there stays away.
bool put_standing(SqliteStatement& statement, const ExampleStanding& one);
/// The row of kAllExamples that the statement is at. False for what is not whole.
bool read_example(SqliteStatement& statement, SavedExample& one);

}  // namespace caching
