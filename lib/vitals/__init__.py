"""Web Vitals of real visitors.

samples (read a beacon) -> ingest (count it in Redis) -> rollup (into Postgres, by the cron) ->
query and report (what GET /api/rum answers). drain reads Vercel's own Speed Insights.
"""
